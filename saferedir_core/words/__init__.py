"""A concept from typed words: prompts, what is fitted to them, and the redirector that comes of it."""
