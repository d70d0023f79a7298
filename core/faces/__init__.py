"""Faces in photographs: found, super-resolved by the network for faces, and blended into the result."""
