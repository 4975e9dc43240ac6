"""What the three stages share: steps, metrics, parameter groups, and where a stage starts from."""

import math
from pathlib import Path
from typing import Any, ClassVar, Optional, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from cdvqa.backbones import Backbone
from cdvqa.data.batch import VQABatch
from cdvqa.data.datasets import make_data_set
from cdvqa.data.handshake import DataFacts, DataNeeds
from cdvqa.errors import InputError
from cdvqa.inference.runtimes import Runtime
from cdvqa.metrics import SplitAccuracy, set_means
from cdvqa.objectives import Loss, find_objective
from cdvqa.objectives.state import class_path, load_objective
from cdvqa.presets import Preset, settle, takes_preset_fields
from cdvqa.runs.folder import network_file
from cdvqa.runs.lineage import Lineage
from cdvqa.sparsity import NetworkFile, Sparsity
from cdvqa.stages.compatibility import (
    check_checkpoint,
    check_compatible,
    check_data,
    check_objective,
    check_stage,
    check_training,
)
from cdvqa.stages.features import warn_of_other_features
from cdvqa.stages.halves import first_half
from cdvqa.stages.inputs import objective_inputs, step_weight, widened
from cdvqa.stages.loading import fill_network, objective_for, prepare_backbone
from cdvqa.stages.machine import check_compiler, check_kernels, check_precision
from cdvqa.stages.optimisation import epoch_schedule, linear_schedule, make_optimizer, warmup_steps
from cdvqa.stages.teacher import Teacher


class VQAStage(pl.LightningModule):
    """One stage of the pipeline. Subclasses say what is trained and what the stage starts from.

    Args:
        backbone: the vision-language model.
        objective: such as bce or lmh (docs/OBJECTIVES.md), or a class of your own, such as package.module.Class.
        objective_options: the objective's own arguments, such as gamma of lpf or entropy_weight of lmh.
        lr: learning rate at the top of the schedule.
        objective_lr: learning rate of the objective's own parameters; null: that of all.
        objective_clip: largest norm of their gradients; null: not clipped.
        teacher: folder of a finished run, for an objective that learns from its outputs.
        init_from: run folder or network file to start from; without it, stages 2 and 3 look for the run of the stage
            before among those of the same data, backbone and seed.
        parent_objective: objectives of the stages before, such as `lpf` (stage 2) or `lpf+lmh` (stage 3); where null
            the stage's own, or those of the run that init_from names.
        compile: compile the backbone in place (torch.compile): the same files, other rounding.
        gradient_checkpointing: keep only what enters each layer, and compute the rest again in backward: the same
            gradients in less memory, for about a third more time.
        preset: `paper` or `authors`; decides every field below that is null.
        layout: linked to data.layout.
        fields: see `cdvqa.presets.Protocol`.
    """

    stage: ClassVar[int]
    sparsity: Sparsity | None = None  # of stage 2
    asked_sparsity: dict[str, Any] | None = None  # settings by which a stage 3 finds its parent

    @takes_preset_fields
    def __init__(
        self,
        backbone: Backbone,
        objective: str = "bce",
        objective_options: Optional[dict[str, Any]] = None,
        lr: float = 5e-5,
        objective_lr: Optional[float] = None,
        objective_clip: Optional[float] = None,
        teacher: Optional[str] = None,
        init_from: Optional[str] = None,
        parent_objective: Optional[str] = None,
        compile: bool = False,
        gradient_checkpointing: bool = False,
        preset: Preset = "paper",
        layout: str = "vqacp",
        **fields: Any,
    ) -> None:
        super().__init__()
        check_stage(backbone, self.stage)
        kind = find_objective(objective)
        options = {**(kind.sequence_options if backbone.generates else {}), **(objective_options or {})}
        for option, field in kind.preset_fields.items():
            if option in options and fields.get(field) not in (None, options[option]):
                raise InputError(f"--model.objective_options.{option} contradicts --model.{field}; give one of them")
            fields[field] = options.get(option, fields.get(field))
        self.preset = preset
        self.has_dev = make_data_set(layout).has_dev
        authors = backbone.authors_protocol(self.stage)
        self.protocol, self.departures = settle(preset, self.stage, self.has_dev, fields, authors)
        options |= {option: getattr(self.protocol, field) for option, field in kind.preset_fields.items()}
        self.backbone = backbone
        self.counts = backbone.counts()
        self.lr = lr
        self.objective_lr, self.objective_clip, self.teacher_folder = objective_lr, objective_clip, teacher
        self.init_from = init_from
        self.compiled = compile
        self.gradient_checkpointing = gradient_checkpointing
        self.objective_name = objective.rpartition(".")[2]
        self.objective_options = options
        self.objective = objective_for(backbone, objective, options)
        if self.trains:
            check_objective(backbone, objective, self.objective)
        self.head = prepare_backbone(backbone, self.objective)
        self.teacher: Teacher | None = None
        if ("teacher" in self.objective.needs) != (teacher is not None):
            raise InputError("--model.teacher: give it if, and only if, the objective needs a teacher")
        self.parent_objective = parent_objective
        # The command line sets both: the network to start from, and what the run inherits from it.
        self.start: Path | None = Path(init_from) if init_from else None
        self.lineage = Lineage([self.objective_name], None, self.protocol.selection)
        self.resumes = False  # a checkpoint will fill in every tensor, so no network is read
        self.evaluates: Path | None = None  # a finished network to evaluate as it is
        self.evaluated: dict[str, Any] = {}  # metadata of that network
        self.runtime: Runtime | None = None  # what answers in place of the backbone
        self.counted = 0  # questions that counted in the latest batch
        self.report: dict[str, Tensor] = {}  # scalars of the latest batch, which a callback logs
        self.configured = False

    @property
    def trains(self) -> bool:
        """False for one-shot pruning."""
        return self.stage != 2 or self.sparsity is None or self.sparsity.method != "omp"

    @property
    def needs(self) -> DataNeeds:
        """What this stage needs of the data module."""
        needs = self.objective.needs
        return DataNeeds(
            protocol=self.protocol,
            image_format=self.backbone.image_format,
            sequences=self.backbone.generates,
            counts="counts" in needs,
            views=self.objective.views if "views" in needs else {},
        )

    def configure_model(self) -> None:
        """Fill in the weights and shape the model for this stage, once."""
        if self.configured:
            return
        self.configured = True
        self.backbone.answers, self.backbone.tokenizer = list(self.facts.answers), self.facts.tokenizer
        if self.evaluates is not None:
            self.evaluated = self._fill(self.evaluates).metadata
        else:
            if self.teacher_folder is not None:
                self.teacher = Teacher(Path(self.teacher_folder), self.metadata(), self.facts.visual_path)
                self.objective.take_teacher(self.teacher.objective)
            network = None if self.resumes else self.load_start()
            with torch.device("cpu"):  # Lightning makes the GPU the default here, but the weights are still on the CPU
                self.shape_model(network)
        if self.gradient_checkpointing:
            self.backbone.checkpoint_gradients()
        if self.compiled:
            self.backbone.compile()

    def load_start(self) -> NetworkFile | None:
        """Fill the backbone from `start`, or from its pre-trained weights; return the network it started from."""
        if self.start is not None:
            return self._fill(network_file(str(self.start)))
        report = self.backbone.load_pretrained()
        rank_zero_info(f"weights: {report or 'random'}")
        return None

    def _fill(self, path: Path) -> NetworkFile:
        network = NetworkFile(path)
        self._check(path, network.metadata)
        evaluates = self.evaluates is not None
        fresh = fill_network(self.backbone, self.objective, network, self.metadata(), evaluates)
        rank_zero_info(f"weights: {path}" + "".join(f"; {part} starts fresh" for part in fresh))
        load_objective(self.objective, path.parent, "score" if evaluates else "start")
        return network

    def _check(self, path: Path, theirs: dict[str, Any]) -> None:
        ours = self.metadata()
        check_compatible(path, theirs, ours)
        warn_of_other_features(path, theirs.get("features"), self.facts.visual_path, ours["features"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["network"] = self.metadata()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        path = Path(str(self.trainer.ckpt_path))
        check_checkpoint(path, checkpoint, self.stage, self.state_dict())
        self._check(path, checkpoint["network"])

    def shape_model(self, network: NetworkFile | None) -> None:
        """Attach what the stage trains; `network` is what it started from (None on resume)."""

    def metadata(self) -> dict[str, Any]:
        """Metadata of the network file: enough to answer questions with it, and to refuse a run that does not fit."""
        return {
            "backbone": self.backbone.description,
            "answers": list(self.facts.answers),
            "text_format": self.facts.text_format,
            "tokenizer": self.facts.tokenizer_digest,
            "features": self.facts.features,
            "extra_text": self.facts.extra_text,
            "stage": self.stage,
            "objective": class_path(self.objective),
            "head": self.head,
            "pipeline": self.lineage.pipeline,
            "preset": self.preset,
            "departures": self.departures,
            "selection": self.lineage.selection,
        }

    def training_step(self, batch: VQABatch, batch_idx: int) -> Tensor:
        inputs = objective_inputs(self, batch, together=self.objective.batch_dependent)
        first = first_half(self, inputs, batch_idx) if self.objective.first else None
        loss = self._loss(inputs)
        self.counted = loss.count
        self.report = {"train/loss/total": loss.total.detach()}
        terms = loss.terms | (first.terms if first else {})
        self.report |= {f"train/loss/{name}": value.detach() for name, value in terms.items()}
        self.report |= {f"objective/{name}": value.detach() for name, value in loss.logged.items()}
        self.log("loss", self.report["train/loss/total"], prog_bar=True, logger=False)
        total = loss.total * step_weight(self, loss.count, batch_idx)
        return total + first.total if first else total

    def loss(self, batch: VQABatch) -> Loss:
        """The objective's loss of this process's questions."""
        return self._loss(objective_inputs(self, batch))

    def _loss(self, inputs: dict[str, Any]) -> Loss:
        """The loss, formed in fp32 (or fp64) whatever the precision of the forward pass."""
        with torch.autocast(self.device.type, enabled=False):
            return self.objective.sequence(**inputs) if self.backbone.generates else self.objective(**inputs)

    def on_fit_start(self) -> None:
        # Lightning gives all processes one seed, so all would drop the same units; the models are equal by now.
        if self.global_rank:
            seeds = np.random.SeedSequence((torch.initial_seed(), self.global_rank))
            torch.manual_seed(int(seeds.generate_state(1)[0]))

    def setup(self, stage: str) -> None:
        check_precision(str(self.trainer.precision))
        check_kernels(self.trainer.strategy.root_device)
        if self.compiled:
            check_compiler(self.trainer.strategy.root_device)
        self.facts = facts = cast(DataFacts, self.trainer.datamodule.facts)  # type: ignore[attr-defined]
        self.split_names = facts.splits
        check_data(self.backbone, facts)
        if stage == "predict":
            return
        if stage == "fit":
            check_training(self.objective_name, self.objective, facts, self.trainer.accumulate_grad_batches)
        types = facts.question_types, facts.answer_types
        modules = nn.ModuleList(SplitAccuracy(*types, facts.subsets.get(name)) for name in facts.splits)
        self.accuracies = cast(list[SplitAccuracy], modules)

    def answer(self, batch: VQABatch) -> list[str]:
        """The answer of each question: the one that the objective scores highest, or a generative backbone's own."""
        if self.backbone.generates:
            return self.backbone.answer(batch)
        scores = self.runtime(batch) if self.runtime else self._scores(batch)
        return [self.facts.answers[index] for index in scores.argmax(dim=1).tolist()]

    def _scores(self, batch: VQABatch) -> Tensor:
        """The objective's scores, formed as its loss is: in 16 bits small differences between answers would be lost."""
        output = widened(self, self.backbone(batch))
        with torch.autocast(self.device.type, enabled=False):
            return self.objective.scores(output)

    def validation_step(self, batch: VQABatch, batch_idx: int) -> list[str]:  # type: ignore[override]
        return self.test_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self.val_result = accuracy = self.accuracies[0].results("val")["val"]
        self.log("val/accuracy/all", accuracy["all"], prog_bar=True)
        self.log_dict({f"val/accuracy/{tag(group)}": accuracy[group] for group in accuracy["n"] if group != "all"})
        per_type = accuracy["per_question_type"]
        self.log_dict({f"val/question_type/{name}": value for name, value in per_type.items()})
        self.accuracies[0].reset()

    def test_step(self, batch: VQABatch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:  # type: ignore[override]
        answers = self.answer(batch)
        self.accuracies[dataloader_idx].update(batch, answers)
        return answers

    def on_test_epoch_end(self) -> None:
        self.test_results: dict[str, Any] = {}
        for name, accuracy in zip(self.split_names, self.accuracies, strict=True):
            self.test_results |= accuracy.results(name)
            accuracy.reset()
        for name, result in self.test_results.items():
            result["distribution"] = self.facts.distributions[name]
        self.test_means = set_means(self.test_results, self.facts.means)
        self.log_dict({f"test/{name}": value for name, value in self.test_means.items()})
        for split, result in self.test_results.items():
            groups = {f"test/{split}/{tag(group)}": result[group] for group in result["n"]}
            per_type = result["per_question_type"]
            self.log_dict(groups | {f"test/{split}/question_type/{name}": value for name, value in per_type.items()})

    def predict_step(self, batch: VQABatch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        return self.answer(batch)

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """Buffers, which DDP need not send: every process computes the same masks and rules."""
        return [name for name, _ in self.named_buffers()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        lr, decay = self.lr, self.protocol.weight_decay
        own_lr = lr if self.objective_lr is None else self.objective_lr
        trained = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        own = {"params": trained, "lr": own_lr, "weight_decay": decay}
        groups = [group for group in [*self.backbone.parameter_groups(lr, decay), own] if group["params"]]
        optimizer = make_optimizer(self.protocol.optimizer, groups)
        total = int(self.trainer.estimated_stepping_batches)
        if self.protocol.schedule == "linear":
            schedule = linear_schedule(optimizer, warmup_steps(self.protocol.warmup, total), total)
        else:
            batches = int(self.trainer.num_training_batches)
            per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
            schedule = epoch_schedule(self.protocol.schedule, optimizer, total, per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the backbone's gradients; the objective's own have a norm of their own, or none."""
        if gradient_clip_val:
            norm = nn.utils.clip_grad_norm_(self.backbone.parameters(), gradient_clip_val)
            self.report["train/gradient_norm"] = norm
        if self.objective_clip is not None:
            nn.utils.clip_grad_norm_(self.objective.parameters(), self.objective_clip)


def tag(group: str) -> str:
    """A group's name in TensorBoard: a slash would start a new folder."""
    return group.replace("/", "_")
