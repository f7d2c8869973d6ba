"""Files of the pack that are written by a program: the registry's entries and the English texts."""
