#!/usr/bin/env bash
# Accuracy on the silicon part of the mlearn benchmark (docs/accuracy.md): fits its training structures with nothing but
# defaults, then scores its test structures. The defaults were chosen on training structures alone.
#   [SEEDS="1 2 3"] [THREADS=2] bash tests/benchmarks/mlearn.sh FOLDER_WITH_Si_train_AND_Si_test OUTPUT_FOLDER
set -euo pipefail
data=$1 out=$2
mkdir -p "$out"
pyfit-gpu new --structures "$data/Si_train.extxyz" --out "$out/start.nn.dat" --overwrite
pyfit-gpu prepare "$data/Si_train.extxyz" --potential "$out/start.nn.dat" --e-shift fit --out "$out/train.h5" --overwrite
for seed in ${SEEDS:-1}; do
  time pyfit-gpu train "$out/train.h5" --potential "$out/start.nn.dat" --out "$out/si$seed.nn.dat" --train-fraction 1 \
    --weight-seed "$seed" --n-threads "${THREADS:-2}" --overwrite
  for part in train test; do
    pyfit-gpu evaluate "$data/Si_$part.extxyz" --potential "$out/si$seed.nn.dat" --out "$out/$part$seed.csv" --forces --overwrite
  done
done
