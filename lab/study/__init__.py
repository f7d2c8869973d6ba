"""The table of the paper on real models, by one command: see study.py and docs/study.md."""
