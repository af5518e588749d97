"""Data-blocks from results: mesh, material, collection, placement, preview. Every function works without the interface."""
