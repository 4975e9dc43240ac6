"""fit, validate and test: assembles stage, data and trainer from YAML, and nothing else."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Optional

from jsonargparse import ActionYesNo, set_parsing_settings
from jsonargparse.typing import PositiveInt
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from cdvqa.callbacks import EpochLine, ProgressLine, Summary, WholeFiles, run_callbacks
from cdvqa.cli.configs import check_words, resolve_configs
from cdvqa.cli.log_filters import LogStyle, quieten, take_style
from cdvqa.cli.parsing import OneLineParser, check_numbers, check_one_shot, naming_classes, trainer_error
from cdvqa.data import VQADataModule
from cdvqa.data.datasets import made_by
from cdvqa.distributed.processes import end_at_sigterm
from cdvqa.errors import InputError
from cdvqa.messages import shows_bars
from cdvqa.runs.folder import Run, network_file, run_of
from cdvqa.runs.identity import settings_of
from cdvqa.runs.lineage import (
    TRAINING,
    Lineage,
    Source,
    describe,
    find_existing,
    find_parent,
    inherit,
    new_run,
    run_differences,
    sources_of,
)
from cdvqa.runs.lock import RunLock
from cdvqa.runs.loggers import added_loggers, own_loggers
from cdvqa.stages import VQAStage

TRAINER = {
    "default_root_dir": "logs",
    "gradient_clip_val": 1.0,
    "use_distributed_sampler": False,  # our samplers shard; Lightning's would pad, or shard a second time
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "log_every_n_steps": 20,
}


class VQACLI(LightningCLI):
    """LightningCLI with stages by class, data and backbone linked, and a run folder settled before anything starts."""

    def __init__(self, args: list[str], run: bool = True, held: ExitStack | None = None) -> None:
        quieten()
        check_words(args[1:] if run else args)
        # The docstrings below fields are the help of dataclass options; to find them takes a third of the start.
        asked = any("help" in arg or "comments" in arg or arg == "-h" for arg in args)
        set_parsing_settings(docstring_parse_attribute_docstrings=asked)
        self.command = args[0] if run else ""
        self.held = held or ExitStack()  # what is held until the command ends
        self.entries: dict[str, Any] = {}  # of run.json: seed, identity and settings
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

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """This subcommand only, less the arguments that `_prepare_subcommand_kwargs` settles."""
        settled = {"verbose", "weights_only", "return_predictions"}
        return {name: skipped | settled for name, skipped in LightningCLI.subcommands().items() if name == self.command}

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would read the whole file here and let its hyper-parameters win over the config."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse wrong numbers before any class is built from them."""
        super().parse_arguments(parser, args)
        subcommand = self.config.get("subcommand")
        given = self.config[subcommand] if subcommand else self.config
        check_numbers(given)
        take_style("quiet" if given["quiet"] else given["log"])

    def before_instantiate_classes(self) -> None:
        """Refuse a missing data set before a backbone of 200 million weights is built for it."""
        data = self._get(self.config, "data")
        if self.subcommand and not Path(data.root).is_dir() and not data.questions:
            remedy = made_by(data.name, Path(data.root)) or "point it at the official question files"
            raise InputError(f"--data.root {data.root}: no such folder; {remedy}")
        if self.subcommand:
            self.refuse_missing_model()

    def refuse_missing_model(self) -> None:
        """Refuse a missing small model of an embedded world: its path would be taken for a name on the hub."""
        small = Path(self._get(self.config, "model.init_args.backbone.init_args.pretrained") or "")
        if not small.exists() and (command := made_by(small.parent.name, small.parent)):
            raise InputError(f"--model.backbone.pretrained {small}: no such folder; {command}")

    def instantiate_classes(self) -> None:
        """As Lightning does; a class that cannot be built is reported in one line."""
        with naming_classes():
            super().instantiate_classes()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--overwrite", action=ActionYesNo, default=False, help="Replace the run in this folder.")
        every = "Optimiser steps between checkpoints within an epoch; null: only at the end of each."
        parser.add_argument("--checkpoint_every_n_steps", type=Optional[PositiveInt], default=None, help=every)
        parser.add_argument("--log", type=LogStyle, default="text", help="json: one JSON object a line, and no bars.")
        parser.add_argument("--quiet", action=ActionYesNo, default=False, help="Print only warnings and errors.")
        parser.link_arguments("data.num_answers", "model.init_args.backbone.init_args.num_answers")
        parser.link_arguments("data.layout", "model.init_args.layout")
        parser.link_arguments("data.dev_share", "model.init_args.dev_share")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Settle the run's folder; add the callbacks and loggers of every run to those of the configuration."""
        settings = self._get(self.config_init, "trainer")
        self.datamodule.needs = self.model.needs
        self.network = self._named_network()
        if self.network is not None:
            self.run_folder = Run(self.network.parent)
        elif self.subcommand == "fit" and self._get(self.config, "ckpt_path") is None:
            self.run_folder = self.run_to_make()
        else:
            self.run_folder = self.existing_run()
        lock = None
        if self.subcommand != "validate" and getattr(rank_zero_only, "rank", 0) == 0:
            lock = self.held.enter_context(RunLock(self.run_folder.folder))
        if self.subcommand == "fit" and self._get(self.config, "ckpt_path") is None:
            self._refuse_existing_run()
        config = self._complete_config()
        every = self._get(self.config, "checkpoint_every_n_steps")
        callbacks = run_callbacks(self.run_folder, self.model, config, self.entries, every, lock)
        if not self.model.trains:
            kwargs["max_epochs"] = 0  # one-shot pruning is done when the model is set up
        own = own_loggers(self.run_folder, self.subcommand or "")
        kwargs["logger"] = [] if settings["logger"] is False else [*own, *added_loggers(settings["logger"])]
        bars = [callback for callback in settings["callbacks"] or [] if isinstance(callback, ProgressBar)]
        if not shows_bars():
            callbacks.append(EpochLine())
            kwargs["enable_progress_bar"] = settings["enable_progress_bar"] or bool(bars)
        elif settings["enable_progress_bar"] is not False and not bars:
            callbacks.append(ProgressLine())
        callbacks.append(Summary(self.run_folder))
        plugins = settings["plugins"] if isinstance(settings["plugins"], list) else [settings["plugins"]]
        kwargs["plugins"] = [*filter(None, plugins), WholeFiles()]
        # Under SLURM Lightning starts from any hpc_ckpt_*.ckpt it finds there.
        kwargs["default_root_dir"] = self.run_folder.folder
        try:
            trainer = super().instantiate_trainer(callbacks=[*(settings["callbacks"] or []), *callbacks], **kwargs)
        except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
            raise trainer_error(error, vars(settings)) from error
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment):
            environment.auto_requeue = False  # it would save in the middle of a step; a run may be killed at any time
        end_at_sigterm(trainer)
        return trainer

    def before_fit(self) -> None:
        self.model.resumes = self._get(self.config, "ckpt_path") is not None
        rank_zero_info(f"run: {self.run_folder.folder}")

    def before_test(self) -> None:
        """Evaluate the network that `--ckpt_path` names, or the one that the run selected; or a checkpoint."""
        checkpoint = self._checkpoint()
        self.model.resumes = checkpoint is not None
        if checkpoint is None:
            self.model.evaluates = self.network or self.run_folder.result()

    before_validate = before_test

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs: dict[str, Any] = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["ckpt_path"] = self._checkpoint()
        kwargs["weights_only"] = True  # a checkpoint is data; none may run code when it is read
        if subcommand in ("validate", "test"):
            kwargs["verbose"] = False  # our own table is shorter
        if subcommand == "predict":
            kwargs["return_predictions"] = False
        return kwargs

    def _run_subcommand(self, subcommand: str) -> None:
        """As Lightning does; what it says of its own options only when it counts the batches is one line too."""
        try:
            super()._run_subcommand(subcommand)
        except (MisconfigurationException, ValueError) as error:
            settings = vars(self._get(self.config_init, "trainer"))
            if not any(f"`{name}`" in str(error) for name in settings):
                raise
            raise trainer_error(error, settings) from error

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
        return self.run_folder.checkpoint if given == "last" else Path(given)

    # --- which run it is --------------------------------------------------------------------------------------------

    @property
    def seed(self) -> int:
        seed: int = self._get(self.config, "seed_everything")
        return seed

    @property
    def runs(self) -> Path:
        """The folder of the runs on this data with this backbone."""
        logs = self._get(self.config_init, "trainer")["default_root_dir"]
        folder: Path = Path(logs) / self.datamodule.name / self.model.backbone.name
        return folder

    def settings(self) -> dict[str, Any]:
        """The settings that identify the run, as far as the configuration alone decides them."""
        return settings_of(self._fields(), self.model, self.seed)

    def parent(self) -> Source | None:
        """The network that the stage starts from: the one that `init_from` names, or the only run that fits."""
        if self.model.init_from:
            return Source.of(self.model.init_from, self.seed)
        return find_parent(self.model, self.runs, self.seed) if self.model.stage > 1 else None

    def run_to_make(self) -> Run:
        """The run that this configuration makes.

        Raises:
            InputError: its folder holds a run of another identity.
        """
        run = self.plan()
        if run.exists and run.read()["identity"] != self.entries["identity"]:
            raise InputError(
                f"{run.folder}: holds another run, its digest begins with the same digits; move it elsewhere"
            )
        return run

    def plan(self, parent: Source | None = None, teacher: Source | None = None) -> Run:
        """The run that this configuration makes, whether or not it exists.

        Args:
            parent: the network to start from, if it is known already.
            teacher: the network that `model.teacher` names, if it is known already.
        """
        settings, parent = self.settings(), parent or self.parent()
        sources = sources_of(self._fields(), self.seed)
        if teacher is not None:
            settings["model.teacher"], sources = dict(teacher.identity), [*sources, teacher]
        if parent is not None:
            settings["parent"] = dict(parent.identity)
            self.model.start = parent.path
        self.model.lineage = inherit(self.model, settings, parent, sources)
        run, identity = new_run(self.runs, self.model.stage, self.model.lineage, settings, self.seed)
        self.entries = {"seed": self.seed, "identity": identity, "settings": settings}
        return run

    def existing_run(self) -> Run:
        """The run that this configuration evaluates or resumes; its parent is not looked for.

        Raises:
            InputError: there is no such run, or its settings are not those of the configuration.
        """
        settings, given = self.settings(), self._get(self.config, "ckpt_path")
        if self.model.init_from:
            settings["parent"] = dict(Source.of(self.model.init_from, self.seed).identity)
        named = given not in (None, "last")
        if named and not Path(given).is_file():
            raise InputError(f"--ckpt_path {given}: no such checkpoint, run folder or network file, nor `last`")
        run = (run_of(Path(given)) if named else None) or self._run_of_config_file()
        if run is None:
            run, _ = find_existing(self.model, self.runs, self.seed, settings)
        record, resumes = run.read(), self.subcommand == "fit"
        wrong = run_differences(self.model, record, settings, () if resumes else TRAINING)
        if record["seed"] != self.seed:
            wrong["seed_everything"] = (record["seed"], self.seed)
        if wrong and (resumes or not named):
            raise InputError(f"{run.folder}: this run has other settings: {describe(wrong)}; leave them unchanged")
        self.model.lineage = Lineage.recorded(record)
        self.entries = {name: record[name] for name in ("seed", "identity", "settings")}
        return run

    def _run_of_config_file(self) -> Run | None:
        """The run whose own `config.yaml` is among the configs, wherever its folder was moved or copied to."""
        paths = [Path(str(path)) for path in self._get(self.config, "config") or ()]
        return next(
            (Run(path.parent) for path in paths if path.name == "config.yaml" and Run(path.parent).exists), None
        )

    def _fields(self) -> dict[str, Any]:
        config = self.config[self.subcommand] if self.subcommand else self.config
        fields: dict[str, Any] = config.as_dict()
        return fields

    def _refuse_existing_run(self) -> None:
        # Under DDP every process runs this; by the time the others do, the first has made the folder.
        if getattr(rank_zero_only, "rank", 0) != 0 or not self.run_folder.exists or self._get(self.config, "overwrite"):
            return
        state = "a finished run" if self.run_folder.finished else "an interrupted run (go on with --ckpt_path last)"
        raise InputError(f"{self.run_folder.folder}: holds {state}; replace it with --overwrite")

    def _complete_config(self) -> str:
        """The configuration as YAML, ready to run again: without the options of this call alone."""
        config = self.config[self.subcommand].clone() if self.subcommand else self.config.clone()
        for name in ("config", "ckpt_path", "overwrite", "log", "quiet"):
            config.pop(name, None)
        parser = self._parser(self.subcommand)
        return str(parser.dump(config, skip_unset=False, skip_validation=True))


class OneShot(VQACLI):
    """`fit` of a network that is pruned once and not trained."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        check_one_shot(self.model)
        return super().instantiate_trainer(**kwargs)


def run(args: list[str]) -> None:
    """Run `fit`, `validate` or `test` with the given command-line arguments."""
    with ExitStack() as held:
        VQACLI(args, held=held)


def prune(args: list[str]) -> None:
    """One-shot magnitude pruning: stage 2 without any step, so it is `fit` with its config put first."""
    with ExitStack() as held:
        OneShot(["fit", "--config", "stage2_omp.yaml", *args[1:]], held=held)
