"""Kernels for CUDA devices (Triton, torch) that come to the same bits as the kernels for a CPU."""
