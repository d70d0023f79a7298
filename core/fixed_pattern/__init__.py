"""Takes the fixed pattern out of the images of a network: `python -m core.fixed_pattern`."""
