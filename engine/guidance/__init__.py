"""Diffusion models as denoisers, and ways to turn what they say about a render into a loss."""
