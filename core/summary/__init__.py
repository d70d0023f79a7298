"""Shows what a network is: its parts, their weights and operations, and its memory: `python -m core.summary`."""
