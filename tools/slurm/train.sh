#!/bin/bash
# Trains under SLURM, one process for each GPU, and goes on by itself after a time limit, a preemption or a crash:
#
#   sbatch --nodes 2 --ntasks-per-node 8 --gpus-per-node 8 tools/slurm/train.sh OUTPUT DATA --config FILE …
#
# OUTPUT must be on a shared disk. Give checkpointing_steps (or _minutes): a crash goes back to the last checkpoint.
# PYTHON: the interpreter. MOST_RESTARTS: after how many crashes in a row without a new checkpoint to give up.
#SBATCH --job-name=training
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300
# The line above: SIGUSR1 to this script, five minutes before the time limit.
set -u
STOPPED=130         # train.py after SIGTERM
REFUSED=" 2 3 4 5 " # wrong input, diverged, a wrong file, a full disk: the same again would end the same way

output=$1
shift
progress="$output.slurm" # the newest checkpoint at the last crash, and how many crashes since

newest_checkpoint() {
    find "$output/checkpoints" -mindepth 2 -maxdepth 2 -name state.json 2>/dev/null | sort | tail -n 1
}

requeue() {
    echo "requeued: $1"
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}

# A run that crashed before its first checkpoint left a folder that a new one would refuse.
if [ -n "$(newest_checkpoint)" ]; then
    set -- --resume latest --output "$output"
else
    if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && [ -e "$output" ]; then
        mv "$output" "$output.interrupted-$SLURM_RESTART_COUNT"
    fi
    set -- "$@" --output "$output"
fi

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 40000))
export MASTER_ADDR MASTER_PORT PYTHON="${PYTHON:-python}" FIRST_STATUS="$output.slurm-status"
rm -f "$FIRST_STATUS"
# SC2016: each task expands its own variables.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    export LOCAL_WORLD_SIZE=$((SLURM_NTASKS / SLURM_NNODES))
    "$PYTHON" train.py "$@" &
    task=$!
    trap "again=1; kill -TERM $task" TERM
    while :; do again=; wait "$task"; status=$?; [ -n "$again" ] || break; done
    # srun returns the highest status, that of the tasks which it kills: what the first one ended with is written down.
    [ "$status" -eq 0 ] || (set -C; echo "$status" >"$FIRST_STATUS") 2>/dev/null
    exit "$status"' train.sh "$@" &
step=$!

stopping=
trap 'stopping=1 again=1; kill -TERM "$step"' USR1 TERM # srun passes it on, and train.py writes a checkpoint
while :; do
    again=
    wait "$step"
    status=$?
    [ -n "$again" ] || break # else a signal ended the wait, and not the step
done
[ -f "$FIRST_STATUS" ] && read -r status <"$FIRST_STATUS"
rm -f "$FIRST_STATUS"

[ -n "$stopping" ] && [ "$status" -ne 0 ] && requeue "stopped before the time limit"
[ "$status" -eq 0 ] && rm -f "$progress" && exit 0
case "$REFUSED" in *" $status "*) exit "$status" ;; esac
[ "$status" -eq "$STOPPED" ] && exit "$status" # by someone's hand

crashes=1
if [ -f "$progress" ]; then
    { read -r before && read -r crashes; } <"$progress"
    crashes=$((crashes + 1))
    [ "$before" = "$(newest_checkpoint)" ] || crashes=1
fi
if [ "$crashes" -gt "${MOST_RESTARTS:-3}" ]; then
    echo "given up: status $status after $crashes crashes in a row without a new checkpoint" >&2
    exit "$status"
fi
printf '%s\n%s\n' "$(newest_checkpoint)" "$crashes" >"$progress"
requeue "status $status"
