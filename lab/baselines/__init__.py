"""The published training-free methods, written from their papers, as methods of an evaluation."""
