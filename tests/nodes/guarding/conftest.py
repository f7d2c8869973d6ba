"""Puts the tests' small models on the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))  # tiny_models.py
