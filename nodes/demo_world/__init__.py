"""The small diffusion model that the pack ships, and the judge that reads its pictures."""
