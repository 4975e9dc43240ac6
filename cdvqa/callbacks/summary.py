"""The first and the last lines of a training: what is trained on what, and what came of it."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning import Callback

from cdvqa.callbacks.selection import KeepSelected
from cdvqa.messages import duration, say
from cdvqa.runs.folder import Run, percent


class Summary(Callback):
    """Print at the start of a training what it is, and at its end what was written where, and the next command.

    It comes after the progress bar among the callbacks: the bar would break its last lines.

    Args:
        run: the run's files.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        self.began = time.monotonic()
        self.kept = next(one for one in trainer.callbacks if isinstance(one, KeepSelected))  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero:
            return
        lineage, questions = pl_module.lineage, {name: len(ids) for name, ids in pl_module.facts.question_id.items()}
        parent = lineage.parent and str(lineage.parent.path)
        values = {
            "objective": pl_module.objective_name,
            "pipeline": "+".join(lineage.pipeline),
            "sparsity": dict(lineage.plan) if lineage.plan else None,
            "questions": questions,
            "epochs": trainer.max_epochs,
            "steps": trainer.estimated_stepping_batches,
            "global_batch": pl_module.protocol.global_batch,
            "parent": parent,
            "run": str(self.run.folder),
        }
        counts = ", ".join(f"{number:,} ({name})" for name, number in questions.items())
        done = f", {trainer.global_step:,} of them done" if trainer.global_step else ""
        say(
            f"objective {values['objective']}, pipeline {values['pipeline']}, {described(lineage.plan)}\n"
            f"questions: {counts}; {values['steps']:,} steps of {values['global_batch']:,} questions{done}"
            + (f"\nstarts from {parent}" if parent else ""),
            "start",
            **values,
        )

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if trainer.is_global_zero and stage == "fit":
            self._trained()
        elif trainer.is_global_zero and stage == "test":
            self._tested()

    def _trained(self) -> None:
        network = next(path for path in (self.run.subnetwork, self.run.model) if path.is_file())
        accuracy, seconds = self.kept.best, time.monotonic() - self.began
        on_split = "" if accuracy is None else f", accuracy {accuracy:.2f} on the split that selects"
        measured = self.kept.step
        if accuracy is None and self.kept.latest is not None:  # nothing was selected
            accuracy, measured = self.kept.latest, self.kept.validated
            on_split = f", accuracy {accuracy:.2f} on the development split at step {measured:,}"
        command = f"cdvqa test --config {self.run.config}"
        say(
            f"written in {duration(seconds)}: {network}, of step {self.kept.step:,}{on_split}\nnext: {command}",
            "finished",
            network=str(network),
            step=self.kept.step,
            accuracy=accuracy,
            accuracy_step=measured if accuracy is not None else None,
            seconds=round(seconds, 1),
            next=command,
        )

    def _tested(self) -> None:
        logs = self.run.folder.parents[3] if len(self.run.folder.parents) > 4 else Path("logs")
        command = "cdvqa report" + ("" if logs == Path("logs") else f" --logs {logs}")
        say(f"written: {self.run.results}\nnext: {command}", "tested", results=str(self.run.results), next=command)


def described(plan: Any) -> str:
    """A sparsity in words."""
    return f"{percent(plan['overall'])} % zeros ({plan['assignment']})" if plan else "no zeros"
