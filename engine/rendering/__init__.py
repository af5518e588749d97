"""Occupancy grid, ray marching, compositing, shading: a field becomes images."""
