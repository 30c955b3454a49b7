"""Equations: tensors in, tensors out. Imports torch and the standard library only (method.md, sections 1-4)."""
