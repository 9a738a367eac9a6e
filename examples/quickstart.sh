#!/usr/bin/env bash
# From DFT data to a trained silicon potential: installs the package into an environment of its own, then prepares,
# trains and evaluates. Results go to quickstart_output (or the folder given as the first argument).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/quickstart_output}
environment=${PYFIT_GPU_ENVIRONMENT:-$root/.venv}

if [ ! -x "$environment/bin/pyfit-gpu" ]; then
  echo "installing into $environment ..."
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check --constraint "$root/constraints.txt" "$root"
fi
export PATH=$environment/bin:$PATH
mkdir -p "$out"
data=$root/examples/data

pyfit-gpu new --structures "$data/si_dft.extxyz" --out "$out/si.start.nn.dat" --overwrite
pyfit-gpu prepare "$data/si_dft.extxyz" --potential "$out/si.start.nn.dat" --e-shift fit --out "$out/si.h5" --overwrite
pyfit-gpu train "$out/si.h5" --potential "$out/si.start.nn.dat" --out "$out/si.nn.dat" --steps 80 --n-threads 1 \
  --overwrite
pyfit-gpu evaluate "$data/si_dft.extxyz" --potential "$out/si.nn.dat" --out "$out/si.csv" --forces \
  --plots "$out" --overwrite

echo
echo "Done. In $out:"
echo "  si.start.nn.dat                the untrained potential: descriptor and layers"
echo "  si.h5                          training set"
echo "  si.nn.dat                      trained potential"
echo "  si.loss.txt, si.validation.txt errors while it trained (eV/atom)"
echo "  si.csv                         energies of every structure"
echo "  parity.png, energy_volume.png  plots"
