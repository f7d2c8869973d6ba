"""A judge of what is drawn: it reads the predicted clean latent of a step, whatever the prompt says."""
