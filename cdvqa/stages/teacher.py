"""The network of a finished run, whose outputs an objective learns from."""

from pathlib import Path
from typing import Any

import torch
import yaml

from cdvqa.backbones import Backbone
from cdvqa.data.batch import VQABatch
from cdvqa.errors import InputError
from cdvqa.objectives import Objective, Output
from cdvqa.objectives.state import load_objective
from cdvqa.registry import find_class
from cdvqa.runs.folder import Run
from cdvqa.sparsity import NetworkFile
from cdvqa.stages.compatibility import check_compatible
from cdvqa.stages.features import warn_of_other_features
from cdvqa.stages.loading import objective_for, replace_head


class Teacher:
    """A frozen network in evaluation mode; it is not part of the model that it teaches.

    Args:
        folder: the run's folder: its backbone is built from `config.yaml`, its weights are those it selected.
        ours: metadata of this model; the teacher needs its answers, text format and word pieces.
        features: the file of visual features, named where they are of another kind than the teacher's.

    Raises:
        InputError: no such run, or it does not fit.
    """

    def __init__(self, folder: Path, ours: dict[str, Any], features: Path) -> None:
        run = Run(folder)
        if not run.finished:
            raise InputError(f"--model.teacher {folder}: no finished run; give the folder that holds its run.json")
        network = NetworkFile(run.result())
        settings = yaml.safe_load(run.config.read_text())["model"]["init_args"]
        model = settings["backbone"]
        kind: type[Backbone] = find_class("--model.teacher: backbone", model["class_path"], {}, Backbone)
        if kind.generates:
            name = network.metadata["backbone"]["name"]
            raise InputError(
                f"--model.teacher {folder}: {name} writes its answers and has no scores to learn from; name the run of "
                "a backbone that scores the vocabulary"
            )
        check_compatible(run.result(), network.metadata | {"backbone": ours["backbone"]}, ours)
        warn_of_other_features(run.result(), network.metadata.get("features"), features, ours["features"])
        options = dict(model.get("init_args") or {}) | {"num_answers": len(network.metadata["answers"])}
        self.backbone = kind(**options)
        self.settings, self.folder = settings, run.result().parent
        if network.metadata.get("head"):
            replace_head(self.backbone, self._objective())
        network.fill(self.backbone.state_dict())
        self.backbone.requires_grad_(False).eval()

    def _objective(self) -> Objective:
        return objective_for(self.backbone, self.settings["objective"], self.settings["objective_options"] or {})

    def objective(self) -> Objective:
        """The objective that trained the teacher, with its parameters.

        Raises:
            InputError: they are missing, unreadable or another objective's.
        """
        objective = self._objective()
        load_objective(objective, self.folder, "teach")
        return objective.requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: VQABatch) -> Output:
        """The teacher's output, on the device of the batch and in the type of its soft targets."""
        assert batch.soft_target is not None
        output: Output = self.backbone.to(batch.soft_target)(batch)
        return output
