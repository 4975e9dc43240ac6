#!/bin/bash
# `cdvqa fit` on SLURM, one task per GPU. What follows the script's name goes to `cdvqa fit`; leave out --overwrite:
#     sbatch --nodes=2 configs/slurm/fit.sh --config stage2_lmh.yaml --config ddp_bf16.yaml
# A job that is preempted, or whose time runs out, is queued again and goes on from its latest checkpoint.
#SBATCH --job-name=cdvqa
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120

# Two minutes before its end the job queues itself again. Nothing need be saved then: a run may be killed at any moment.
trap 'scontrol requeue "$SLURM_JOB_ID"' USR1

fit() {
    srun --kill-on-bad-exit=1 cdvqa fit --trainer.strategy=ddp --trainer.num_nodes="$SLURM_NNODES" \
        --trainer.devices="$SLURM_NTASKS_PER_NODE" --checkpoint_every_n_steps=500 "$@" &
    wait $!  # in the foreground srun would hold the signal back
}

if (( ${SLURM_RESTART_COUNT:-0} > 0 )); then
    fit "$@" --ckpt_path=last
    status=$?
    # 2 is a refusal: the job may have been stopped before its first checkpoint. Where there is a run, a fresh start is
    # refused as well.
    (( status == 2 )) || exit $status
fi
fit "$@"
