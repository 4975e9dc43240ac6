"""The records of a run: `config.yaml`, `run.json`, `results.json`."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback
from rich.console import Console
from rich.table import Table
from torch import nn

from cdvqa.callbacks.checkpoint import LastCheckpoint
from cdvqa.callbacks.selection import KeepSelected
from cdvqa.data.datasets.data_set import TITLES
from cdvqa.distributed.processes import gather
from cdvqa.errors import InputError
from cdvqa.files import remove_leftovers, write_atomically, write_json
from cdvqa.messages import say
from cdvqa.runs.dashboard import page, row_of
from cdvqa.runs.folder import Run, read_results
from cdvqa.runs.lock import RunLock
from cdvqa.runs.loggers import event_logs, is_own

GROUPS = ("all", "yes/no", "number", "other")  # of answers, in the order of the paper; others follow
PACKAGES = ("cdvqa", "torch", "pytorch-lightning", "transformers", "torchmetrics", "numpy")


class RunRecord(Callback):
    """Write a run's config and record at its start, mark it finished at its end, and add results after a test.

    Nothing is written before the checkpoint of step 0, so wrong input leaves no run behind, every run can be
    resumed, and what is killed earlier starts again. An older run in the folder is removed then, not before.

    Args:
        run: the run's files.
        config: the complete configuration as YAML.
        entries: what run.json says of the run before it starts: its seed, identity and settings.
        kept: what chooses the run's model; comes before this among the callbacks.
        last: what saves the run's checkpoint; comes after this among the callbacks.
        lock: what keeps other processes out of the folder.
    """

    def __init__(
        self,
        run: Run,
        config: str,
        entries: dict[str, Any],
        kept: KeepSelected,
        last: LastCheckpoint,
        lock: RunLock | None = None,
    ) -> None:
        self.run = run
        self.kept = kept
        self.last = last
        self.config = config
        self.entries = entries
        self.lock = lock
        self.replaced: dict[Path, int] = {}  # files of an older run, and their inodes
        last.after_first = self.begin

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        runs = set(gather([(self.entries.get("identity"), str(self.run.folder))]))
        if len(runs) > 1:
            raise InputError(f"the processes were started with other settings: they make {', '.join(map(str, runs))}")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        record = self.run.read() if pl_module.resumes else first_record(pl_module, self.entries)
        refuse_other_questions(self.run.folder, record, pl_module.facts.files)
        for source in pl_module.lineage.sources:
            refuse_other_questions(source.path, source.record, pl_module.facts.files)
        self.record = record | surroundings(trainer)
        for logger in trainer.loggers:
            if not is_own(logger):  # the run's own get the row at the end, in a folder that holds a run by then
                logger.log_hyperparams(row_of(self.record))
        if trainer.is_global_zero and pl_module.resumes:
            self._write()
        elif trainer.is_global_zero:
            files = self.run.folder.rglob("*") if self.run.exists else ()
            self.replaced = {path: path.stat().st_ino for path in files if path.is_file() and path.name != ".lock"}
            # One-shot pruning has no step 0, and the old record must not stay beside the new network.
            if self.replaced and trainer.max_epochs == 0:
                self._write()

    def begin(self) -> None:
        """Write what makes the folder a run, and remove the run that it replaces: there is something to resume now."""
        self._write()
        for path, inode in self.replaced.items():
            if path.is_file() and path.stat().st_ino == inode:
                path.unlink()

    def _write(self) -> None:
        with write_atomically(self.run.config) as temporary:
            temporary.write_text(self.config, encoding="utf-8")
        write_json(self.run.record, self.record)
        for path in (self.run.checkpoint, self.run.model, self.run.subnetwork, self.run.record, self.run.config):
            remove_leftovers(path)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        if trainer.max_epochs == 0:
            self.begin()
        kept, full = self.kept, count_parameters(pl_module)
        selected = {"by": pl_module.protocol.selection, "best": kept.best, "step": kept.step, "sparsity": kept.realised}
        parameters = {"full": full, "kept": full - kept.zeros}
        finished = {"finished": now(), "steps": trainer.global_step, "selected": selected, "parameters": parameters}
        self.record |= finished
        write_json(self.run.record, self.record)
        for log in event_logs(trainer.loggers):
            log.log_settings(row_of(self.record))
        self._show(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.global_step == 0:
            self._show(trainer)

    def _show(self, trainer: pl.Trainer) -> None:
        for log in event_logs(trainer.loggers):
            log.log_page("run", page(self.record), trainer.global_step)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        # Wrong data that shows only when it is read: before the first steps are saved there is nothing worth keeping.
        wrong_input = isinstance(exception, InputError) and trainer.state.fn == "fit" and not pl_module.resumes
        created = self.lock is not None and self.run.folder in self.lock.created
        if wrong_input and created and not self.last.step:
            shutil.rmtree(self.run.folder, ignore_errors=True)

    def on_test_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        results = read_results(self.run) | results_header(pl_module) | {"identity": self.entries.get("identity")}
        results["splits"] = results.get("splits", {}) | pl_module.test_results
        write_json(self.run.results, results | {"means": pl_module.test_means})
        print_accuracies(str(self.run.folder), pl_module.test_results)
        for name, mean in pl_module.test_means.items():
            say(f"{name}: {mean:.2f}", "mean", name=name, accuracy=mean)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            print_accuracies(str(self.run.folder), {"val": pl_module.val_result})


def print_accuracies(title: str, results: Mapping[str, Mapping[str, Any]]) -> None:
    """A line per split: the paper's accuracy per answer type, and the official one of all questions."""
    found = [group for result in results.values() for group in result["n"]]
    groups = [*filter(found.__contains__, GROUPS), *(group for group in dict.fromkeys(found) if group not in GROUPS)]
    table = Table(
        "split", "questions", *groups, "official", "distribution", title=title, title_justify="left", pad_edge=False
    )
    for split, result in results.items():
        cells = [f"{result[group]:.2f}" if group in result else "" for group in groups]
        official = f"{result['official']['all']:.2f}" if result["n"]["all"] else ""
        kind = TITLES.get(result.get("distribution", ""), "").removesuffix(" distribution")
        table.add_row(split, f"{result['n']['all']:,}", *cells, official, kind)
    console = Console(soft_wrap=True)
    with console.capture() as text:
        console.print(table)
    scores = {split: {group: result[group] for group in groups if group in result} for split, result in results.items()}
    say(text.get().rstrip("\n"), "accuracies", run=title, splits=scores)


def results_header(stage: Any) -> dict[str, Any]:
    """How the results came about: preset, each field that departs from it, and how the model was chosen.

    A network that is evaluated as it is has its own record, which wins over the config.
    """
    made = stage.metadata() | stage.evaluated
    selection = "selected on test" if made["selection"] == "test" else made["selection"]
    return {"preset": made["preset"], "departures": made["departures"], "selection": selection}


def first_record(stage: Any, entries: dict[str, Any]) -> dict[str, Any]:
    """The content of `run.json` at the start of a run."""
    return {
        "stage": stage.stage,
        **entries,
        **stage.lineage.entries(),
        "preset": stage.preset,
        "departures": stage.departures,
        "protocol": asdict(stage.protocol),
        "backbone": stage.backbone.description,
        "data": stage.facts.fingerprint(),
        "started": now(),
        "finished": None,
    }


def surroundings(trainer: pl.Trainer) -> dict[str, Any]:
    """What may change when a run is resumed; run.json has the latest."""
    packages = {name: version(name) for name in PACKAGES}
    return {"processes": trainer.world_size, "packages": packages, "git": git_revision()}


def refuse_other_questions(source: Path, record: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    """Raise InputError where a run read other questions under the same file names."""
    theirs = {Path(name).name: digest for name, digest in record.get("data", {}).get("files", {}).items()}
    for name, digest in files.items():
        if theirs.get(Path(name).name, digest) != digest:
            raise InputError(
                f"{source}: was made with another {Path(name).name}; give the same files with "
                "--data.root, or other data another --data.name"
            )


def count_parameters(stage: Any) -> int:
    """Parameters as the paper counts them: of the matrices that can be masked, and of the classifier.

    A backbone without such matrices counts whole. The part that an objective has in the network counts too.
    """
    counts: dict[str, int] = stage.counts
    others: nn.Module = stage.backbone.classifier if sum(counts.values()) else stage.backbone
    parameters: list[nn.Parameter] = [*others.parameters(), *stage.objective.shipped()]
    return sum(counts.values()) + sum(parameter.numel() for parameter in parameters)


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_revision() -> str | None:
    """Revision of the checkout that cdvqa runs from; None where it is installed."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
