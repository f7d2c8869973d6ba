"""docs/backbones.md: other architectures than Stable Diffusion 1.x.

Small ones of the host's own classes, trained on the demo world; the published ones at full width, with random weights.
"""
