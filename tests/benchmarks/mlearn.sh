#!/usr/bin/env bash
# Accuracy on the silicon part of the mlearn benchmark (docs/accuracy.md): fits its training structures, then scores
# its test structures. Settings were chosen on training structures alone.
#   bash tests/benchmarks/mlearn.sh FOLDER_WITH_Si_train_AND_Si_test OUTPUT_FOLDER
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"
pyfit-gpu new --elements Si --gi-mode 5 --cutoff 5.0 --gaussian-width 0.5 --legendre-orders 0 1 2 3 4 6 \
  --gaussian-centers 1.6 2.03 2.46 2.89 3.31 3.74 4.17 4.6 --hidden 32 24 --out "$out/start.nn.dat" --overwrite
pyfit-gpu prepare "$data/Si_train.extxyz" --potential "$out/start.nn.dat" --e-shift fit --out "$out/train.h5" --overwrite
time pyfit-gpu train "$out/train.h5" --potential "$out/start.nn.dat" --out "$out/si.nn.dat" --train-fraction 1 \
  --steps "${STEPS:-400}" --force-weight 0.01 --l2 1e-4 --weight-seed 1 --n-threads "${THREADS:-2}" --overwrite
for part in train test; do
  pyfit-gpu evaluate "$data/Si_$part.extxyz" --potential "$out/si.nn.dat" --out "$out/$part.csv" --forces --overwrite
done
