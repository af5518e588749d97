"""Fetching, adding, checking and removing diffusion models. The only room that goes online, and only when it is told to."""
