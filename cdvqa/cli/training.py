"""fit, validate, test and predict: assembles stage, data and trainer from YAML, and nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from jsonargparse import ActionYesNo, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from cdvqa.callbacks import (
    FiniteCheck,
    KeepSelected,
    LastCheckpoint,
    Predictions,
    RunRecord,
    ThresholdReset,
    TrainingLog,
    WholeFiles,
)
from cdvqa.cli.configs import resolve_configs
from cdvqa.cli.log_filters import quieten
from cdvqa.cli.parsing import OneLineParser
from cdvqa.data import VQADataModule
from cdvqa.distributed.processes import end_at_sigterm
from cdvqa.errors import InputError
from cdvqa.runs.folder import Run, network_file, parent_run, run_name
from cdvqa.runs.loggers import EventLog, MetricsLog
from cdvqa.stages import VQAStage
from cdvqa.stages.compatibility import read_metadata

# The help of dataclass options, such as --model.sparsity.overall, is the docstring below each field.
set_parsing_settings(docstring_parse_attribute_docstrings=True)
TRAINER = {
    "default_root_dir": "logs",
    "gradient_clip_val": 1.0,
    "use_distributed_sampler": False,  # our samplers shard; Lightning's would pad or shard twice
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "log_every_n_steps": 20,
}


class VQACLI(LightningCLI):
    """LightningCLI with stages by class, data and backbone linked, and a run folder settled before anything starts."""

    def __init__(self, args: list[str], run: bool = True) -> None:
        quieten()
        super().__init__(
            VQAStage,
            VQADataModule,
            subclass_mode_model=True,
            auto_configure_optimizers=False,
            # Stages start from `model.init_from`; a checkpoint must never override the config of the next stage.
            load_from_checkpoint_support=False,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=TRAINER,
            parser_class=OneLineParser,
            args=resolve_configs(args),
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, less the arguments that `_prepare_subcommand_kwargs` settles."""
        settled = {"verbose", "weights_only", "return_predictions"}
        return {name: skipped | settled for name, skipped in LightningCLI.subcommands().items()}

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would read the whole file here and let its hyper-parameters win over the config."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--overwrite", action=ActionYesNo, default=False, help="Replace the run in this folder.")
        parser.add_argument(
            "--checkpoint_every_n_steps",
            type=Optional[PositiveInt],
            default=None,
            help="Optimiser steps between checkpoints within an epoch; null: only at the end of each.",
        )
        parser.link_arguments("data.num_answers", "model.init_args.backbone.init_args.num_answers")
        parser.link_arguments("data.layout", "model.init_args.layout")
        parser.link_arguments("data.dev_share", "model.init_args.dev_share")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add what every run logs and calls back; `trainer.callbacks` and `trainer.logger` stay the user's."""
        settings = self._get(self.config_init, "trainer")
        self.datamodule.needs = self.model.needs
        self.network = self._named_network()
        of_config = self.run_of_config(Path(settings["default_root_dir"]))
        self.run_folder = Run(self.network.parent) if self.network else of_config
        seed = self._get(self.config, "seed_everything")
        config = self._complete_config()
        kept = KeepSelected(self.run_folder)
        last = LastCheckpoint(self.run_folder, self._get(self.config, "checkpoint_every_n_steps"))
        callbacks = [
            FiniteCheck(),
            TrainingLog(),
            kept,
            RunRecord(self.run_folder, config, seed, kept, last, self._get(self.config, "overwrite")),
            Predictions(self.run_folder),
            last,
        ]
        if self.model.stage == 2 and self.model.sparsity.method == "omp":
            kwargs["max_epochs"] = 0  # one-shot pruning is done when the model is set up
        elif self.model.stage == 2:
            callbacks.insert(1, ThresholdReset(self.model.sparsity.reset_every))
        if self.subcommand == "fit" and settings["logger"] is None:
            kwargs["logger"] = [EventLog(self.run_folder.folder), MetricsLog(self.run_folder.metrics)]
        elif settings["logger"] is None:
            kwargs["logger"] = EventLog(self.run_folder.folder) if self.subcommand == "test" else False
        plugins = settings["plugins"] if isinstance(settings["plugins"], list) else [settings["plugins"]]
        kwargs["plugins"] = [*filter(None, plugins), WholeFiles()]
        # Under SLURM Lightning starts from any hpc_ckpt_*.ckpt it finds there.
        kwargs["default_root_dir"] = self.run_folder.folder
        trainer = super().instantiate_trainer(callbacks=[*(settings["callbacks"] or []), *callbacks], **kwargs)
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            environment.auto_requeue = False  # it would save in the middle of a step; a kill at any moment is no harm
        end_at_sigterm(trainer)
        return trainer

    def before_fit(self) -> None:
        """Refuse to mix two runs in one folder, and find the run this one starts from."""
        ckpt_path = self._get(self.config, "ckpt_path")
        self.model.resumes = ckpt_path is not None
        if ckpt_path is None:
            self._refuse_existing_run()
        if self.model.start is None and self.model.stage > 1 and not self.model.resumes:
            run = parent_run(self.run_folder.folder, self.model.stage, self.model.pipeline, self.model.sparsity)
            self.model.start = run.result()
        rank_zero_info(f"run: {self.run_folder.folder}")

    def before_test(self) -> None:
        """Evaluate the network that `--ckpt_path` names, or the one that the run selected; or a checkpoint."""
        checkpoint = self._checkpoint()
        self.model.resumes = checkpoint is not None
        if checkpoint is None:
            self.model.evaluates = self.network or self.run_folder.result()

    before_validate = before_test

    def before_predict(self) -> None:
        """As in a test; questions are read as the network wants them, so what it says of itself is read before them."""
        self.before_test()
        network = read_metadata(self._checkpoint() or self.model.evaluates)
        self.datamodule.needs = replace(self.model.needs, network=network)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = self._checkpoint()
        kwargs["weights_only"] = True  # a checkpoint is data; none may run code when it is read
        if subcommand in ("validate", "test"):
            kwargs["verbose"] = False  # our own table is shorter
        if subcommand == "predict":
            kwargs["return_predictions"] = False
        return kwargs

    def _named_network(self) -> Path | None:
        """The network file that `--ckpt_path` names, by itself or by its run folder; None where it names neither."""
        given = self._get(self.config, "ckpt_path")
        if given is None or not (Path(given).is_dir() or Path(given).suffix == ".safetensors"):
            return None
        if self.subcommand == "fit":
            raise InputError(
                f"--ckpt_path {given}: fit resumes from a checkpoint; start a stage with --model.init_from"
            )
        return network_file(str(given), "--ckpt_path")

    def _checkpoint(self) -> Path | None:
        """The Lightning checkpoint that `--ckpt_path` names."""
        given = self._get(self.config, "ckpt_path")
        if given is None or self.network is not None:
            return None
        if given == "last" and not (self.run_folder.exists and self.run_folder.checkpoint.is_file()):
            remedy = "replace the run with --overwrite" if self.run_folder.exists else "start without --ckpt_path"
            raise InputError(f"{self.run_folder.checkpoint}: nothing to go on from; {remedy}")
        path = self.run_folder.checkpoint if given == "last" else Path(given)
        if not path.is_file():
            raise InputError(f"--ckpt_path {path}: no such checkpoint, run folder or network file")
        return path

    def run_of_config(self, logs: Path) -> Run:
        """The run that this config makes or evaluates."""
        name = run_name(self.model.stage, self.model.pipeline, self.model.sparsity)
        seed = self._get(self.config, "seed_everything")
        return Run(logs / self.datamodule.name / self.model.backbone.name / name / f"seed{seed}")

    def _refuse_existing_run(self) -> None:
        # Under DDP every process runs this; by the time the others do, the first has made the folder.
        if getattr(rank_zero_only, "rank", 0) != 0 or not self.run_folder.exists or self._get(self.config, "overwrite"):
            return
        state = "a finished run" if self.run_folder.finished else "an interrupted run (go on with --ckpt_path last)"
        raise InputError(f"{self.run_folder.folder}: holds {state}; replace it with --overwrite")

    def _complete_config(self) -> str:
        """The configuration as YAML, ready to run again: without what only concerned this call."""
        config = self.config[self.subcommand].clone() if self.subcommand else self.config.clone()
        for name in ("config", "ckpt_path", "overwrite"):
            config.pop(name, None)
        parser = self._parser(self.subcommand)
        return str(parser.dump(config, skip_unset=False, skip_validation=True))


def run(args: list[str]) -> None:
    """Run `fit`, `validate`, `test` or `predict` with the given command-line arguments."""
    VQACLI(args)


def prune(args: list[str]) -> None:
    """One-shot magnitude pruning: stage 2 without any step, so it is `fit` with its config put first."""
    run(["fit", "--config", "stage2_omp.yaml", *args[1:]])
