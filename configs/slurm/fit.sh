#!/bin/bash
# `cdvqa fit` on SLURM, one task per GPU. Arguments go to `cdvqa fit`; do not give --overwrite:
#     sbatch --nodes=2 configs/slurm/fit.sh --config stage2_lmh.yaml --config ddp_bf16.yaml
# A job that is preempted or runs out of time is queued again and resumes from its latest checkpoint.
#SBATCH --job-name=cdvqa
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

# Two minutes before its time runs out the job queues itself again. It saves nothing: a run may be killed any time.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

fit() {
    srun --kill-on-bad-exit=1 cdvqa fit --trainer.strategy=ddp --trainer.num_nodes="$SLURM_NNODES" \
        --trainer.devices="$SLURM_NTASKS_PER_NODE" --checkpoint_every_n_steps=500 "$@" &
    wait $!  # in the foreground srun would hold the signal back
}

if (( ${SLURM_RESTART_COUNT:-0} > 0 )); then
    fit "$@" --ckpt_path=last
    status=$?
    # 2 is a refusal: perhaps the job stopped before its first checkpoint. A fresh start is refused if there is a run.
    (( status == 2 )) || exit $status
fi
fit "$@"
