"""Potentials: networks on descriptors, energies and their derivatives, the energy scale."""
