"""The demo world beyond what the pack ships: captions and splits, prompt pairs, training and measuring of its model."""
