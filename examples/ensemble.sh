#!/usr/bin/env bash
# Sixteen networks at once: train, kill, resume, choose the best, and see where they disagree. Needs pyfit-gpu on the
# PATH (quickstart.sh installs it into .venv/bin). Results go to ensemble_output, or the folder given as the argument.
set -euo pipefail
data=$(cd "$(dirname "$0")/data" && pwd)
out=${1:-ensemble_output}
mkdir -p "$out"
rm -f "$out"/fit.*

pyfit-gpu prepare "$data/si_dft.extxyz" --potential "$data/si.start.nn.dat" --e-shift 107 --out "$out/si.h5" --overwrite

# The run file holds everything. The same command line with --resume goes on from it, whatever ended the run.
fit=(pyfit-gpu train "$out/si.h5" --potential "$data/si.start.nn.dat" --out "$out/fit.nn.dat"
  --members "${MEMBERS:-16}" --steps "${STEPS:-20}" --patience 5 --l2 1e-4 --split first --test-groups hcp_eos
  --backup-dir "" --checkpoint-interval 0 --n-threads 1)
"${fit[@]}" &
training=$!
until [ "$(cat "$out/fit.m000.loss.txt" 2> /dev/null | wc -l)" -ge 3 ]; do    # rows 0 to 2
  kill -0 "$training"                                                         # it is still there
  sleep 0.1
done
kill -KILL "$training"
wait "$training" || echo "killed, exit status $?"
"${fit[@]}" --resume

echo
echo "The best members by their loss on the validation structures, eV/atom:"
head -n 5 "$out/fit.ranking.csv" | cut -d , -f 1-6,12
echo
pyfit-gpu evaluate "$data/si_dft.extxyz" --potential "$out/fit.run.h5" --out "$out/fit.csv" --overwrite
echo
echo "Where they disagree most, columns of fit.csv (the spread is the last, eV/atom):"
head -n 1 "$out/fit.csv"
tail -n +2 "$out/fit.csv" | sort -t , -k 7 -g -r | sed -n 1,5p
