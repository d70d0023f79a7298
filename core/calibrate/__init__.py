"""Measures how the state of an encoder changes along a chain, for key steps that fit: `python -m core.calibrate`."""
