"""Measurements of speed and memory, always paired with the plain implementation in the same run."""
