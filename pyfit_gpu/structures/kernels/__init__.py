"""Fused kernels for GPUs: the search for neighbours."""
