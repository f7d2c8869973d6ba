"""What looking at the picture is worth: what leaves a guard that looks, in the demo world and on real latents."""
