"""A real ComfyUI from outside: its server, a client, its editor in a browser; the demo and pictures made with them."""
