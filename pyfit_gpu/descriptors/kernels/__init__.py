"""Fused kernels for GPUs: features of atoms and their derivatives, written out by settings and compiled by Triton."""
