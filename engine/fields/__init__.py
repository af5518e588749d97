"""Encodings and networks: position -> density, albedo. Imports nothing here, so that settings can be read without torch."""
