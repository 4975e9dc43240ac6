"""A finished network that answers single questions: for `ask` and `serve`, and as `cdvqa.load` for notebooks."""

import time
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cdvqa.backbones import Backbone
from cdvqa.cli.inspect import ConfigInspector
from cdvqa.data import VQADataModule
from cdvqa.data.answers.prior import QuestionTypePrior
from cdvqa.data.batch import VQABatch
from cdvqa.data.questions.text import load_tokenizer, tokenise, tokenizer_digest
from cdvqa.data.visual.images import ImagePixels
from cdvqa.errors import InputError
from cdvqa.files import read_json
from cdvqa.inference.runtimes import CHECKED, Runtime, RuntimeType, fastest, torch_runtime
from cdvqa.inference.scorer import Scorer
from cdvqa.objectives import Objective
from cdvqa.objectives.state import class_path, load_objective
from cdvqa.runs.folder import Run, network_file, run_of
from cdvqa.sparsity import NetworkFile
from cdvqa.sparsity.shrink import left_over, shrink
from cdvqa.sparsity.statistics import sparsity_by_modality
from cdvqa.stages.loading import fill_network

# Files that `cdvqa push` writes beside a network, so that it needs no data.
TOKENIZER, PRIOR = "tokenizer.json", "prior.json"


class Answer(NamedTuple):
    """An answer and its share in the softmax over all scores of the vocabulary; None where it was generated."""

    text: str
    share: float | None


@dataclass
class Reply:
    """The reply of a network to one question.

    Attributes:
        answers: the answers with the largest shares, best first.
        question_type: the longest known question type that the question begins with; empty if there is none.
        prior: the most frequent answers to that type in training, with their prior; empty without training data.
        milliseconds: time from the question's text and its features or pixels to the answers.
    """

    answers: list[Answer]
    question_type: str
    prior: list[Answer]
    milliseconds: float


@dataclass
class Network:
    """A finished network with everything that it needs to answer questions.

    Attributes:
        path: the network file.
        metadata: metadata in the network file.
        backbone, objective: with the network's weights.
        data: its data, of which nothing has been read yet.
        exact: whether what no answer needs is left out.
        run: the run that wrote the file, or from which it was exported; None for a file without a run.
        scorer: the network as one function of tensors; None for a generative backbone.
        runtime: computes the scores; None for a generative backbone.
    """

    path: Path
    metadata: dict[str, Any]
    backbone: Backbone
    objective: Objective
    data: VQADataModule
    exact: bool = True
    run: Run | None = None
    scorer: Scorer | None = field(init=False, default=None)
    runtime: Runtime | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.backbone.generates:
            self.scorer = Scorer(self.backbone, self.objective, self.exact)
            self.runtime = torch_runtime(self.scorer)

    @property
    def name(self) -> str:
        """The last two folders of the run, and those of an exported file inside it; without a run, the file."""
        if self.run is None:
            return str(self.path)
        folder = self.run.folder.absolute()
        return str(self.path.absolute().parent.relative_to(folder.parent.parent))

    def ask(
        self,
        question: str,
        image: str | Path | Image.Image | None = None,
        features: NDArray[Any] | Tensor | None = None,
        boxes: NDArray[Any] | Tensor | None = None,
        image_id: int | None = None,
        top: int = 5,
    ) -> Reply:
        """Answer one question.

        Args:
            question: its text.
            image: an image, or its file, for a backbone that takes pixels.
            features: region features (R, F), for a backbone that takes them.
            boxes: boxes (R, 4) of the regions, x1/w, y1/h, x2/w, y2/h; None: each is the whole image.
            image_id: id of an image of the run's data, instead of the three above.
            top: number of answers to return.

        Raises:
            InputError: the question is empty, or the backbone does not take this kind of image.
        """
        if not question.strip():
            raise InputError("the question is empty")
        begin = time.perf_counter()
        batch = self.batch(question, self.view(image, features, boxes, image_id))
        with torch.inference_mode():
            if self.runtime is None:
                answers = [Answer(self.backbone.answer(batch)[0], None)]
            else:
                shares = self.runtime(batch)[0].softmax(0)
                answers = self.best(shares, top)
        milliseconds = 1000 * (time.perf_counter() - begin)
        kind = question_type(question, self.prior.question_types) if self.prior else ""
        prior = self.best(torch.from_numpy(self.prior.row(kind)), top) if self.prior and kind else []
        return Reply(answers, kind, prior, milliseconds)

    def take_runtime(self, dtype: RuntimeType, batch_size: int) -> str:
        """Answer with the fastest runtime from now on; return a line that says which and why. See `fastest`.

        Raises:
            InputError: the run's test questions, on which runtimes are checked, are absent.
        """
        if self.scorer is None:
            return f"torch, as {self.backbone.name} generates its answers word by word"
        self.data.eval_batch_size = batch_size
        self.data.setup("test")
        batches = islice(self.data.test_dataloader()[-1], -(-CHECKED // batch_size))
        self.runtime, reason = fastest(self.scorer, dtype, self.path, list(batches))
        return reason

    @property
    def answers(self) -> list[str]:
        """The answer vocabulary, in index order."""
        return list(self.metadata["answers"])

    @cached_property
    def masks(self) -> dict[str, Tensor]:
        """The masks in its file, True on kept weights, by name of the weight; empty for a full model."""
        return NetworkFile(self.path).masks

    def sparsity(self) -> float:
        """Share of zeros over all masked weights; 0 without masks."""
        return self.modality_sparsity().get("overall", 0.0)

    def modality_sparsity(self) -> dict[str, float]:
        """Share of zeros of each modality, and `overall`; empty without masks."""
        groups = self.backbone.matrices().items()
        masked = {modality: [name for name in names if name in self.masks] for modality, names in groups}
        return sparsity_by_modality(self.masks, masked)

    def answer(self, batch: VQABatch) -> list[str]:
        """The answer of each question of a batch."""
        if self.runtime is None:
            return self.backbone.answer(batch.widened())
        return [self.answers[index] for index in self.runtime(batch).argmax(1).tolist()]

    def best(self, shares: Tensor, number: int) -> list[Answer]:
        """The answers with the largest of the shares (A,), at most `number`; answers of share 0 are left out."""
        values, indices = shares.topk(min(number, len(shares)))
        pairs = zip(indices.tolist(), values.tolist(), strict=True)
        return [Answer(self.answers[index], value) for index, value in pairs if value > 0]

    def batch(self, question: str, view: dict[str, Any]) -> VQABatch:
        """One question as a batch; `view` has the batch's fields of the image."""
        assert self.backbone.tokenizer is not None
        ids, mask = tokenise([question], self.backbone.tokenizer, self.metadata["text_format"]).batch(np.arange(1))
        words = torch.from_numpy(ids), None if mask is None else torch.from_numpy(mask)
        return VQABatch(torch.zeros(1, dtype=torch.int64), *words, **view).widened()

    def view(
        self,
        image: str | Path | Image.Image | None,
        features: NDArray[Any] | Tensor | None,
        boxes: NDArray[Any] | Tensor | None,
        image_id: int | None,
    ) -> dict[str, Tensor]:
        """The image as fields of a batch; arguments and errors are those of `ask`."""
        if sum(given is not None for given in (image, features, image_id)) != 1:
            raise InputError("give one of an image, region features or an image id")
        if image_id is not None:
            found = self.data.visual.fields(np.array([image_id]), np.array([0]), 0, None)
            return {name: torch.from_numpy(value) for name, value in found.items()}
        pixels = self.backbone.image_format
        if features is not None:
            if pixels is not None:
                raise InputError(f"{self.backbone.name} sees the image itself; give a picture")
            regions = torch.as_tensor(features, dtype=torch.float32)[None]
            width = self.backbone.description["visual_feat_dim"]
            if regions.ndim != 3 or regions.shape[2] != width:
                raise InputError(f"region features are {list(regions.shape[1:])}; {self.name} takes (R, {width})")
            whole = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(regions.shape[1], 4)
            given = whole if boxes is None else torch.as_tensor(boxes, dtype=torch.float32)
            return {"region_features": regions, "boxes": given[None]}
        if pixels is None:
            extractor = self.metadata["features"].get("extractor") or "another program"
            raise InputError(
                f"{self.name} sees region features of {extractor}, which cdvqa cannot extract from a picture; "
                "give --image_id, or the features"
            )
        assert image is not None
        return {"image": torch.from_numpy(ImagePixels(pixels).read(image))[None]}

    @cached_property
    def prior(self) -> QuestionTypePrior | None:
        """The answer prior of each question type in training; None without training data."""
        kept = self.path.with_name(PRIOR)
        if kept.is_file():
            content = read_json(kept)
            return QuestionTypePrior(content["question_types"], np.asarray(content["table"], np.float32))
        try:
            return self.data.prepare().prior
        except InputError:
            return None


def load(source: str | Path, exact: bool = True) -> Network:
    """A finished network, ready to answer.

    Args:
        source: a run's folder, a network file with its run, or a folder that `cdvqa push` wrote.
        exact: leave out what no answer needs, empty heads and neurons among it; the answers stay the same.

    Raises:
        InputError: no such network, an unfinished run, no config beside it, or another tokeniser than its own.
    """
    path = network_file(str(source), "NETWORK")
    file, run = NetworkFile(path), run_of(path) or exported_by(path)
    config = run.config if run else path.parent / "config.yaml"
    if run and not run.finished:
        raise InputError(f"{run.folder}: this run is not finished; finish it with --ckpt_path last first")
    if not config.is_file():
        raise InputError(f"{path}: no config.yaml of its run beside it")
    if lacking := [name for name in ("answers", "text_format", "tokenizer") if not file.metadata.get(name)]:
        raise InputError(f"{path}: does not say its {lacking[0]}, so it cannot answer; name a file that a run wrote")
    inspector = ConfigInspector(["--config", str(config)], device="cpu")
    stage, data = inspector.model, inspector.datamodule
    backbone, objective = stage.backbone, stage.objective
    kept = path.with_name(TOKENIZER)
    source = str(kept) if kept.is_file() else data.tokenizer_source
    backbone.answers, backbone.tokenizer = file.metadata["answers"], load_tokenizer(source)
    if tokenizer_digest(backbone.tokenizer) != file.metadata["tokenizer"]:
        raise InputError(f"{source}: not the tokeniser that {path} was trained with")
    ours = {"head": stage.head, "objective": class_path(objective)}
    fill_network(backbone, objective, file, ours, evaluates=True)
    load_objective(objective, path.parent, "score")
    if exact and "left" not in file.metadata:
        shrink(backbone, backbone.structures(), left_over(backbone.structures(), file.masks))
    return Network(path, file.metadata, backbone.eval().requires_grad_(False), objective, data, exact, run)


def exported_by(path: Path) -> Run | None:
    """The run whose folder has this network file in `export/<dtype>/`."""
    folder = path.absolute().parent
    return run_of(folder.parent.parent) if folder.parent.name == "export" else None


def question_type(question: str, known: list[str]) -> str:
    """The longest of these question types that the question's words begin with; empty if there is none."""
    words = " ".join(question.lower().split()) + " "
    return max((kind for kind in known if words.startswith(f"{kind} ")), key=len, default="")
