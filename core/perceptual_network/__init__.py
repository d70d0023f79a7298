"""Trains a perceptual network for distillation: `python -m core.perceptual_network`."""
