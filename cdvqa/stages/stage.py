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

from cdvqa.backbones import Backbone, Output
from cdvqa.data.batch import VQABatch
from cdvqa.data.datasets import make_data_set
from cdvqa.data.loaders import TrainingLoader
from cdvqa.errors import InputError
from cdvqa.metrics import SplitAccuracy, set_means
from cdvqa.objectives import LMH, Loss, make_objective
from cdvqa.presets import NoAnswer, OptimizerName, Preset, Schedule, Selection, SoftScore, TextFormat, TieBreak, settle
from cdvqa.runs.folder import network_file, pipeline_of
from cdvqa.sparsity import Sparsity, Subnetwork
from cdvqa.stages.accumulation import batch_weight
from cdvqa.stages.compatibility import check_backbone, check_compatible, check_priors
from cdvqa.stages.features import warn_of_other_features
from cdvqa.stages.machine import check_compiler, check_kernels, check_precision
from cdvqa.stages.optimisation import epoch_cosine_schedule, linear_schedule, make_optimizer, warmup_steps


class VQAStage(pl.LightningModule):
    """One stage of the pipeline. Subclasses say what is trained and what the stage starts from.

    Args:
        backbone: the vision-language model.
        objective: bce, ce, lmh, rubi or lpf.
        objective_options: the objective's own arguments, such as gamma of lpf or entropy_weight of lmh.
        lr: learning rate at the top of the schedule, one for all parameters.
        init_from: run folder or network file to start from; wins over parent_objective.
        parent_objective: objectives of the stages before, such as `lpf` (stage 2) or `lpf+lmh` (stage 3); the
            stage's own where null.
        compile: compile the backbone in place (torch.compile): the same network and files, other rounding.
        gradient_checkpointing: keep only what enters each layer, and compute the rest again in backward: the same
            gradients in less memory, for about a third more time.
        preset: `paper` or `authors`; decides every field below that is null.
        layout: linked to data.layout.
        optimizer: see `cdvqa.presets.Protocol` for this and all that follow.
        weight_decay: for all parameter groups.
        global_batch: questions in one optimiser step.
        warmup: a share of all steps (float), or a number of steps (int).
        lmh_trainable: whether LMH's gate and smoothing are trained.
        train_classifier: whether stage 2 trains the classifier.
        normalise_prior: whether each question type's prior sums to one.
        soft_score: `third` or `clark`.
        text_format: `standard` or `authors`.
        no_answer: `skip` or `random`.
        selection: `dev`, `last` or `test`.
        tie_break: `exact` or `strict`.
        reset_before_evaluation: whether thresholds are re-selected before each validation.
        schedule: `linear` or `epoch_cosine`.
    """

    stage: ClassVar[int]
    sparsity: Sparsity | None = None

    def __init__(
        self,
        backbone: Backbone,
        objective: str = "bce",
        objective_options: Optional[dict[str, Any]] = None,
        lr: float = 5e-5,
        init_from: Optional[str] = None,
        parent_objective: Optional[str] = None,
        compile: bool = False,
        gradient_checkpointing: bool = False,
        preset: Preset = "paper",
        layout: str = "vqacp",
        optimizer: Optional[OptimizerName] = None,
        weight_decay: Optional[float] = None,
        global_batch: Optional[int] = None,
        warmup: float | int | None = None,
        lmh_trainable: Optional[bool] = None,
        train_classifier: Optional[bool] = None,
        normalise_prior: Optional[bool] = None,
        soft_score: Optional[SoftScore] = None,
        text_format: Optional[TextFormat] = None,
        no_answer: Optional[NoAnswer] = None,
        selection: Optional[Selection] = None,
        tie_break: Optional[TieBreak] = None,
        reset_before_evaluation: Optional[bool] = None,
        schedule: Optional[Schedule] = None,
    ) -> None:
        super().__init__()
        given = {
            "optimizer": optimizer,
            "weight_decay": weight_decay,
            "global_batch": global_batch,
            "warmup": warmup,
            "lmh_trainable": lmh_trainable,
            "train_classifier": train_classifier,
            "normalise_prior": normalise_prior,
            "soft_score": soft_score,
            "text_format": text_format,
            "no_answer": no_answer,
            "selection": selection,
            "tie_break": tie_break,
            "reset_before_evaluation": reset_before_evaluation,
            "schedule": schedule,
        }
        check_backbone(backbone, self.stage, objective if self.trains else None)
        self.preset = preset
        self.protocol, self.departures = settle(
            preset, self.stage, make_data_set(layout).has_dev, given, backbone.authors_protocol(self.stage)
        )
        self.backbone = backbone
        self.counts = backbone.counts()
        self.lr = lr
        self.init_from = init_from
        self.compiled = compile
        self.gradient_checkpointing = gradient_checkpointing
        options = {**backbone.objectives.get(objective, {}), **(objective_options or {})}
        if objective == "lmh":
            options.setdefault("trainable", self.protocol.lmh_trainable)
        self.objective_name = objective
        self.objective = make_objective(objective, backbone.hidden_size, **options)
        self.pipeline = pipeline_of(self.stage, objective, parent_objective, self.sparsity)
        self.start: Path | None = Path(init_from) if init_from else None  # the command line fills in a run it finds
        self.resumes = False  # a checkpoint will fill in every tensor, so nothing need be read
        self.evaluates: Path | None = None  # a finished network to evaluate as it is
        self.evaluated: dict[str, Any] = {}  # what that network says of itself
        self.report: dict[str, Tensor] = {}  # what the latest batch says of the training; a callback logs it
        self.configured = False

    @property
    def trains(self) -> bool:
        """False where the stage prunes by magnitude in one shot."""
        return self.stage != 2 or self.sparsity is None or self.sparsity.method != "omp"

    # --- where a stage starts -------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Fill in the weights and shape the model for this stage, once."""
        if self.configured:
            return
        self.configured = True
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.backbone.answers, self.backbone.tokenizer = data.vocabulary.answers, data.tokenizer
        if self.evaluates is not None:
            self.evaluated = self._fill(self.evaluates).metadata
        else:
            network = None if self.resumes else self.load_start()
            self.shape_model(network)
        if self.gradient_checkpointing:
            self.backbone.checkpoint_gradients()
        if self.compiled:
            self.backbone.compile()

    def load_start(self) -> Subnetwork | None:
        """Fill the backbone from `start`, or from its pre-trained weights; return the network it started from."""
        if self.start is not None:
            return self._fill(network_file(str(self.start)))
        report = self.backbone.load_pretrained()
        rank_zero_info(f"weights: {report or 'random'}")
        return None

    def _fill(self, path: Path) -> Subnetwork:
        network = Subnetwork.load(path)
        self._check(path, network.metadata)
        self.backbone.load_state_dict(network.state)
        rank_zero_info(f"weights: {path}")
        return network

    def _check(self, path: Path, theirs: dict[str, Any]) -> None:
        ours = self.metadata()
        check_compatible(path, theirs, ours)
        seen = self.trainer.datamodule.visual.path  # type: ignore[attr-defined]
        warn_of_other_features(path, theirs.get("features"), seen, ours["features"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["network"] = self.metadata()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        path = Path(str(self.trainer.ckpt_path))
        if "network" not in checkpoint:
            raise InputError(f"{path}: no checkpoint of this cdvqa; it does not say which network it holds")
        self._check(path, checkpoint["network"])

    def shape_model(self, network: Subnetwork | None) -> None:
        """Attach what the stage trains; `network` is what it started from (None on resume)."""

    def metadata(self) -> dict[str, Any]:
        """What a network file says of itself: enough to answer questions with it, and to refuse a wrong pairing."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return {
            "backbone": self.backbone.description,
            "answers": list(data.vocabulary.answers),
            "text_format": data.text_format,
            "tokenizer": data.tokenizer_digest,
            "features": data.feature_fingerprint,
            "stage": self.stage,
            "pipeline": self.pipeline,
            "preset": self.preset,
            "departures": self.departures,
            "selection": self.protocol.selection,
        }

    # --- steps ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: VQABatch, batch_idx: int) -> Tensor:
        output: Output = self.backbone(batch)
        self.report = {}
        # Losses are formed in fp32 (or fp64) whatever the precision of the forward pass.
        with torch.autocast(self.device.type, enabled=False):
            loss = self._loss(output, batch)
        self.report["train/loss/total"] = loss.total.detach()
        self.report |= {f"train/loss/{name}": value.detach() for name, value in loss.terms.items()}
        self.log("loss", self.report["train/loss/total"], prog_bar=True, logger=False)
        return loss.total * self._weight(batch, batch_idx)

    def _loss(self, output: Output, batch: VQABatch) -> Loss:
        if output.sequence is not None:
            sequence = output.sequence
            return self.objective.sequence(**(sequence._asdict() | {"logits": sequence.logits.to(self.dtype)}))
        assert output.logits is not None and output.hidden is not None, "a backbone classifies or generates"
        logits, hidden = output.logits.to(self.dtype), output.hidden.to(self.dtype)
        if isinstance(self.objective, LMH):
            self.report["objective/gate"] = self.objective.gate(hidden.detach()).mean().detach()
        return self.objective(logits, batch.soft_target, batch.prior, hidden, batch.label)  # type: ignore[no-any-return]

    def _weight(self, batch: VQABatch, batch_idx: int) -> float:
        loader = cast(TrainingLoader, self.trainer.train_dataloader)
        batches = int(self.trainer.num_training_batches)  # fewer than the loader's under limit_train_batches
        epoch = min(len(loader.sampler), batches * loader.batch_size)
        return batch_weight(batch_idx, len(batch), loader.batch_size, self.trainer.accumulate_grad_batches, epoch)

    def on_fit_start(self) -> None:
        # Lightning seeds every process alike, and each would drop the same units; the model has been made alike by now.
        if self.global_rank:
            seeds = np.random.SeedSequence((torch.initial_seed(), self.global_rank))
            torch.manual_seed(int(seeds.generate_state(1)[0]))

    def setup(self, stage: str) -> None:
        check_precision(str(self.trainer.precision))
        check_kernels(self.trainer.strategy.root_device)
        if self.compiled:
            check_compiler(self.trainer.strategy.root_device)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "predict":
            self.split_names = list(data.predict_splits)
            return
        if stage == "fit":
            check_priors(self.objective_name, data)
        names = ["val"] if stage in ("fit", "validate") else list(data.test_splits)
        types = data.question_types, data.answer_types
        modules = nn.ModuleList(SplitAccuracy(*types, data.subsets.get(name)) for name in names)
        self.accuracies = cast(list[SplitAccuracy], modules)
        self.split_names = names

    def validation_step(self, batch: VQABatch, batch_idx: int) -> None:
        self.accuracies[0].update(batch, self.backbone.answer(batch))

    def on_validation_epoch_end(self) -> None:
        self.val_result = accuracy = self.accuracies[0].results("val")["val"]
        self.log("val/accuracy/all", accuracy["all"], prog_bar=True)
        self.log_dict({f"val/accuracy/{tag(group)}": accuracy[group] for group in accuracy["n"] if group != "all"})
        per_type = accuracy["per_question_type"]
        self.log_dict({f"val/question_type/{name}": value for name, value in per_type.items()})
        self.accuracies[0].reset()

    def test_step(self, batch: VQABatch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:  # type: ignore[override]
        answers = self.backbone.answer(batch)
        self.accuracies[dataloader_idx].update(batch, answers)
        return answers

    def on_test_epoch_end(self) -> None:
        self.test_results: dict[str, Any] = {}
        for name, accuracy in zip(self.split_names, self.accuracies, strict=True):
            self.test_results |= accuracy.results(name)
            accuracy.reset()
        data_set = self.trainer.datamodule.data_set  # type: ignore[attr-defined]
        for name, result in self.test_results.items():
            result["distribution"] = data_set.distributions()[name]
        self.test_means = set_means(self.test_results, data_set.means())
        self.log_dict({f"test/{name}": value for name, value in self.test_means.items()})
        for split, result in self.test_results.items():
            groups = {f"test/{split}/{tag(group)}": result[group] for group in result["n"]}
            per_type = result["per_question_type"]
            self.log_dict(groups | {f"test/{split}/question_type/{name}": value for name, value in per_type.items()})

    def predict_step(self, batch: VQABatch, batch_idx: int, dataloader_idx: int = 0) -> list[str]:
        return self.backbone.answer(batch)

    # --- optimisation ---------------------------------------------------------------------------------------------

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DDP leaves alone: every process computes the same masks and rules, and need not be sent them."""
        return [name for name, _ in self.named_buffers()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        lr, decay = self.lr, self.protocol.weight_decay
        own = {"params": [p for p in self.objective.parameters() if p.requires_grad], "lr": lr, "weight_decay": decay}
        groups = [group for group in [*self.backbone.parameter_groups(lr, decay), own] if group["params"]]
        optimizer = make_optimizer(self.protocol.optimizer, groups)
        total = int(self.trainer.estimated_stepping_batches)
        if self.protocol.schedule == "linear":
            schedule = linear_schedule(optimizer, warmup_steps(self.protocol.warmup, total), total)
        else:
            batches = int(self.trainer.num_training_batches)
            per_epoch = math.ceil(batches / self.trainer.accumulate_grad_batches)
            schedule = epoch_cosine_schedule(optimizer, total, per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of the backbone's gradients; LMH's own parameters stand outside it, as in the authors' code."""
        if gradient_clip_val:
            norm = nn.utils.clip_grad_norm_(self.backbone.parameters(), gradient_clip_val)
            self.report["train/gradient_norm"] = norm


def tag(group: str) -> str:
    """A group's name in TensorBoard: a slash would start a new folder."""
    return group.replace("/", "_")
