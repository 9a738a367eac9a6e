"""Potentials in LAMMPS: `pair_style pyfit`, a plugin in C++ (`plugin/`, GPL-2), built, checked and handed over."""
