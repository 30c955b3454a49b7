"""Networks by name, and their fused kernels."""
