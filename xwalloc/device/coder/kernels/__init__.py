"""Triton kernels of the entropy coder."""
