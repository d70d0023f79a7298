"""Distillation: a student that samples in few calls learns from its teacher.

`student.py`, `teacher.py`  the two networks, as the loss sees them
`loss.py`                   what a step minimises, and the equation of it
`discriminator.py`, `perceptual_network.py`, `fixed_pattern.py`  whom the loss asks
"""
