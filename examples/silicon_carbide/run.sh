#!/usr/bin/env bash
# A potential for two elements from DFT energies, forces and stress, and molecular dynamics with it: see README.md.
# Needs pyfit-gpu on the PATH. Results go to silicon_carbide_output (or the folder given as the first argument).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-silicon_carbide_output}
mkdir -p "$out"

pyfit-gpu new --structures "$here/sic_dft.extxyz" --out "$out/start.nn.dat" --overwrite
pyfit-gpu prepare "$here/sic_dft.extxyz" --potential "$out/start.nn.dat" --e-shift fit --out "$out/sic.h5" --overwrite
pyfit-gpu train "$out/sic.h5" --potential "$out/start.nn.dat" --out "$out/sic.nn.dat" --steps "${STEPS:-120}" \
  --train-fraction 0.85 --seed 5 --n-threads 1 --overwrite
pyfit-gpu evaluate "$here/sic_dft.extxyz" --potential "$out/sic.nn.dat" --out "$out/sic.extxyz" --overwrite
python "$here/../molecular_dynamics.py" --potential "$out/sic.nn.dat" --structure "$here/sic_dft.extxyz@17" \
  --cells 3 --steps "${MD_STEPS:-500}"
