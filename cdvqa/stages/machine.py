"""Checks before a run starts: a precision that keeps the scores in fp32, kernels for the GPU, a compiler."""

import torch

from cdvqa.errors import InputError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")


def check_precision(precision: str) -> None:
    """Raise InputError unless parameters stay in fp32 (or fp64): a score of two bytes would lose most of its steps."""
    if precision not in PRECISIONS:
        raise InputError(
            f"--trainer.precision {precision}: scores, thresholds and losses need fp32; take {', '.join(PRECISIONS)}"
        )


def check_kernels(device: torch.device) -> None:
    """Raise InputError where this build of torch has no code for the GPU; any other error is raised as it is."""
    try:
        torch.ones(1, device=device).add_(1)
    except RuntimeError as error:
        if "no kernel image is available" not in str(error):
            raise
        raise InputError(
            f"{device}: torch {torch.__version__} was built without kernels for this GPU; install a build that has "
            "them (for a V100: torch 2.7 to 2.14, built for CUDA 12.6)"
        ) from error


def check_compiler(device: torch.device) -> None:
    """Raise InputError where torch cannot compile, before the data are read."""
    try:
        torch.compile(lambda tensor: tensor + 1)(torch.ones(1, device=device))
    except Exception as error:  # torch's compilers raise errors of many types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"--model.compile true: torch cannot compile here ({reason}); install a C++ compiler, or leave it out"
        ) from error
