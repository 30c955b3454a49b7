"""Runs side by side. Nothing here imports torch."""
