"""What the looks at pictures are worth: the diffusion model as witness, pixels judged in the demo world."""
