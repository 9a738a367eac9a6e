#!/usr/bin/env bash
# From DFT data to a trained silicon potential: installs the package into an environment of its own, then fits
# a committee and writes a report. Results go to quickstart_output (or the folder given as the first argument).
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

pyfit-gpu fit "$root/examples/data/si_dft.extxyz" --out "$out" --members 2 --time 15s

echo
echo "Done. In $out:"
echo "  report/report.html    errors, plots and what the potential says of crystals: open it in a browser"
echo "  fit.m000.nn.dat, ...  the potentials of the committee; the best one as fit.nn.dat"
echo "  set.h5                training set"
echo "  errors.csv            energies of the structures that did not train"
echo "  lammps                the committee for LAMMPS, where that is installed"
echo "  commands.sh           the commands that do the same one by one"
