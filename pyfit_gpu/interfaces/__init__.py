"""Potentials in other programs."""
