#!/bin/bash
# Fits from random weights, number N from weight seed N to fits/N.nn.dat. A task that meets its time limit saves, goes
# back to the queue and continues there. A task that failed or was cancelled is submitted again alone and continues, too.
#
#   sbatch train_array.sh --steps 2000 --force-weight 0.1        # options of pyfit-gpu train
#   sbatch --array=3 train_array.sh --steps 2000 --force-weight 0.1
#
#SBATCH --job-name=train
#SBATCH --array=0-15
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=2
##SBATCH --gpus-per-node=1         # one # less where there are GPUs
#SBATCH --signal=B:USR1@120        # notice before the time limit; more than a step takes
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x.%A_%a.log

# Settings; the same names in the environment of sbatch take precedence.
SET=${SET:-set.json}
START=${START:-start.nn.dat}
OUT=${OUT:-fits}
GPUS=${GPUS:-${SLURM_GPUS_ON_NODE:-0}}   # that this task sees; by hand where tasks share a node without asking for any
FITS=${FITS:-${SLURM_GPUS_ON_NODE:-1}}   # side by side in one task
TRAIN=${TRAIN:-pyfit-gpu train}          # or torchrun's words, see the guide
RUNS=${RUNS:-50}                         # a task is not queued more often than this

# The notice goes to the training. SIGTERM (scancel, preemption) reaches it without help: only wait until it has saved.
fits=()
notice=
ended=
trap 'notice=1; kill -USR1 "${fits[@]}" 2> /dev/null' USR1
trap 'ended=1' TERM

mkdir -p "$OUT"
for ((k = 0; k < FITS; k++)); do
  seed=$((SLURM_ARRAY_TASK_ID * FITS + k))
  device=()
  if ((GPUS > 0)); then device=(--gpu-affinity $((seed % GPUS))); fi
  # shellcheck disable=SC2086              # TRAIN is meant to become several words
  $TRAIN "$SET" --potential "$START" --out "$OUT/$seed.nn.dat" --randomize --weight-seed "$seed" --resume \
    --n-threads $((${SLURM_CPUS_PER_TASK:-1} / FITS > 0 ? ${SLURM_CPUS_PER_TASK:-1} / FITS : 1)) "${device[@]}" "$@" &
  fits+=($!)
done

unfinished=
failed=0
for fit in "${fits[@]}"; do
  while true; do                         # a signal ends `wait` early
    wait "$fit"
    status=$?
    kill -0 "$fit" 2> /dev/null || break
  done
  case $status in
    0) ;;
    75 | 138) unfinished=1 ;;            # stopped by --max-time, by USR1; saved
    1) if [ "$notice" ]; then unfinished=1; else failed=1; fi ;;   # torchrun makes 1 of every status
    *) failed=$status ;;
  esac
done

# Not after SIGTERM: a job that was cancelled would come back. By array and task: the bare number of an array's last
# task stands for the whole array.
if [ "$unfinished" ] && [ ! "$ended" ] && ((${SLURM_RESTART_COUNT:-0} + 1 < RUNS)); then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" && exit
fi
if [ "$unfinished" ] && ((failed == 0)); then failed=75; fi
exit "$failed"
