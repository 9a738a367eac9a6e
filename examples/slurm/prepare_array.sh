#!/bin/bash
# Features of a large set, one shard per task. A task that failed is submitted again alone: sbatch --array=3 ...
#
#   job=$(sbatch --parsable prepare_array.sh)
#   sbatch --dependency=afterok:$job --wrap "pyfit-gpu info set.json"     # or train_array.sh
#
#SBATCH --job-name=prepare
#SBATCH --array=0-7                # 0 to SHARDS - 1
#SBATCH --time=02:00:00
#SBATCH --cpus-per-task=2
##SBATCH --gpus-per-node=1         # one # less where there are GPUs
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x.%A_%a.log

# Settings; the same names in the environment of sbatch take precedence, and so do options after the script's name.
SHARDS=${SHARDS:-8}                # not SLURM_ARRAY_TASK_COUNT, which is 1 when one task is submitted again
DATA=${DATA:-dft/*.extxyz}         # the same files in the same order in all tasks
START=${START:-start.nn.dat}
SET=${SET:-set.h5}                 # shards are set.0-of-8.h5 ..., together they are set.json

# shellcheck disable=SC2086        # the pattern in DATA is meant to become file names
exec pyfit-gpu prepare $DATA --potential "$START" --out "$SET" --shard "$SLURM_ARRAY_TASK_ID/$SHARDS" \
  --n-threads "${SLURM_CPUS_PER_TASK:-1}" "$@"
