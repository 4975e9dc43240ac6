"""`cdvqa predict`: built as the commands of training, with a choice of the runtime that answers."""

from contextlib import ExitStack
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities import rank_zero_info

from cdvqa.cli.training import VQACLI
from cdvqa.errors import InputError
from cdvqa.inference.runtimes import CHECKED, RuntimeName, RuntimeType, fastest
from cdvqa.inference.scorer import Scorer
from cdvqa.stages.compatibility import read_metadata


class PredictCLI(VQACLI):
    """`predict`, which has two options more."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        runtime_help = "torch, or auto: the fastest here that answers as torch does, which is timed once."
        parser.add_argument("--runtime", type=RuntimeName, default="torch", help=runtime_help)
        dtype_help = "fp32, or with --runtime auto int8, whose answers may differ."
        parser.add_argument("--dtype", type=RuntimeType, default="fp32", help=dtype_help)

    def before_predict(self) -> None:
        """As before a test. The network decides how questions are read, so its metadata are read before them."""
        self.before_test()
        network = read_metadata(self._checkpoint() or self.model.evaluates)
        self.datamodule.needs = replace(self.model.needs, network=network)
        runtime, dtype = self._get(self.config, "runtime"), self._get(self.config, "dtype")
        if dtype == "int8" and runtime != "auto":
            raise InputError("--dtype int8 needs --runtime auto")
        if runtime == "auto":
            if self.model.evaluates is None or self.model.backbone.generates:
                raise InputError("--runtime auto takes a finished network that scores a vocabulary of answers")
            self.trainer.callbacks.append(TakeRuntime(dtype, self.model.evaluates))  # type: ignore[attr-defined]


class TakeRuntime(Callback):
    """Let a stage answer with the runtime that is fastest here.

    Args:
        dtype: see `fastest`.
        network: file of the network that answers.
    """

    def __init__(self, dtype: RuntimeType, network: Path) -> None:
        self.dtype, self.network = dtype, network

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Time the runtimes on the first questions."""
        if trainer.world_size > 1 or pl_module.device.type != "cpu":
            raise InputError("--runtime auto answers on one CPU; add --trainer.accelerator cpu --trainer.devices 1")
        scorer = Scorer(pl_module.backbone, pl_module.objective)
        loaders = trainer.predict_dataloaders or []
        count = -(-CHECKED // trainer.datamodule.eval_batch_size)  # type: ignore[attr-defined]
        questions = list(islice(chain.from_iterable(loaders), count))
        pl_module.runtime, said = fastest(scorer, self.dtype, self.network, questions)
        rank_zero_info(f"runtime: {said}")


def run(args: list[str]) -> None:
    """Run `predict` with the given command-line arguments."""
    with ExitStack() as held:
        PredictCLI(args, held=held)
