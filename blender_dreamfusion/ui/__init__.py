"""Operators, panels, properties, preferences and the pump. Thin: an operator unpacks its properties and calls a function."""
