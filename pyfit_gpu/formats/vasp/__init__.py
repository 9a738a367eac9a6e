"""VASP's output (docs/formats/vasp.md): OUTCAR, vasprun.xml and ML_AB, and which ionic steps of a run are taken."""
