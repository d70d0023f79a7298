"""Compares the results of any method with the true images: `python -m core.score`."""
