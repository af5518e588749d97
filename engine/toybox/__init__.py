"""Toybox: the small text-to-image diffusion model that ships with the product, its data generator and its training."""
