"""What a config needs beside its data: word pieces, and the weights or the run that its stage starts from."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from huggingface_hub import try_to_load_from_cache

from cdvqa.data.questions.text import load_tokenizer, vocabulary_size
from cdvqa.errors import InputError
from cdvqa.runs.folder import network_file
from cdvqa.runs.lineage import find_parent
from cdvqa.sparsity import Subnetwork
from cdvqa.stages import VQAStage
from cdvqa.stages.compatibility import read_metadata
from cdvqa.stages.features import differences
from cdvqa.tools.findings import Finding, Item, Report, reason

if TYPE_CHECKING:
    from cdvqa.cli.inspect import ConfigInspector

VOCABULARIES = ("vocab.txt", "tokenizer.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CHECKPOINTS = (".pth", ".pt", ".bin", ".safetensors")  # a file of its own, and no folder or name on the hub

GLOVE = "glove.6B of the GloVe project: its glove.6B.300d.txt, given with --model.backbone.glove FILE"


class Start(NamedTuple):
    """A network that is needed: its role, how to find its file, and what to do where there is none."""

    what: str
    find: Callable[[], Path]
    remedy: str = ""


def check_tokenizer(source: str, vocab_size: int | None) -> Report:
    """The word-piece vocabulary; `vocab_size` is the number of pieces that the backbone embeds."""
    remedy = "bert-base-uncased on Hugging Face: its vocab.txt, given with --data.tokenizer FILE"
    path = find_locally(source, VOCABULARIES)
    item = _local_item("word pieces", source, path, remedy)
    if path is None or item.state != "ok":
        return Report([item], [])
    try:
        pieces = vocabulary_size(load_tokenizer(path))
    except InputError as error:
        item.problem = reason(error, path)
        return Report([item], [])
    item.holds = f"{pieces:,} word pieces"
    if vocab_size is None:
        return Report([item], [])
    return Report([item], [Finding.of(pieces <= vocab_size, f"{item.holds}, the backbone embeds {vocab_size:,}")])


def find_start(config: "ConfigInspector", predicts: bool) -> Start | None:
    """The network that the stage begins with or answers with; None where it begins with published weights.

    Args:
        config: of the run.
        predicts: whether the run is to answer questions, and not to be trained.
    """
    given = config.config_init["ckpt_path"]
    if given == "last":
        return Start("network", lambda: config.go_on().checkpoint)
    if given is not None:
        return Start("network", lambda: network_file(given, "--ckpt_path"))
    if predicts:
        return Start("network", lambda: config.go_on().result(), "train it, or name another with --ckpt_path")
    if config.model.start is not None:
        return Start("starting network", lambda: network_file(str(config.model.start)))
    if config.model.stage > 1:
        return Start("parent run", lambda: find_parent(config.model, config.runs, config.seed).path)
    return None


def check_start(stage: VQAStage, start: Start | None, fingerprint: Mapping[str, Any]) -> Report:
    """The network `start`, and whether it was trained on features like those at hand, or else published weights."""
    if start is None:
        weights, vectors = (getattr(stage.backbone, name, None) for name in ("pretrained", "glove"))
        items = [_weights(stage, weights)] if weights else []
        return Report(items + ([Item.file("word vectors", Path(vectors), GLOVE)] if vectors else []), [])
    item, metadata = _network(start)
    told = metadata.get("features")
    if not told or not fingerprint:
        return Report([item], [])
    found = [f"{what} {there} there and {here} here" for what, there, here in differences(told, fingerprint)]
    if found:
        return Report([item], [Finding("WRONG", f"{start.what}: trained on other region features: {', '.join(found)}")])
    return Report([item], [Finding("ok", f"{start.what}: trained on region features like those at hand")])


def find_locally(source: str, names: tuple[str, ...]) -> Path | None:
    """Where `source` lies on this machine: a file as it is, else the first of `names` in it. Asks no network.

    Args:
        source: a file, a folder, or a model on the Hugging Face hub, which is looked for in the local cache.
        names: the files that would do.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return next((path / name for name in names if (path / name).is_file()), path / names[0])
    for name in names:
        try:
            cached = try_to_load_from_cache(source, name)
        except ValueError:  # not the name of a model, so a path that does not exist
            return path
        if isinstance(cached, str):
            return Path(cached)
    return None


def _local_item(what: str, source: str, path: Path | None, remedy: str) -> Item:
    return Item(what, f"{source} in the Hugging Face cache", remedy) if path is None else Item.file(what, path, remedy)


def _network(start: Start) -> tuple[Item, dict[str, Any]]:
    """A network that another run has written, and its metadata; where there is none, how to make it."""
    try:
        path = start.find()
    except InputError as error:
        where, _, told = str(error).partition(": ")
        return Item(start.what, where, start.remedy or told), {}
    item = Item.file(start.what, path, start.remedy or "run the stage that makes it again")
    if item.state != "ok":
        return item, {}
    try:
        if path.suffix == ".ckpt":
            metadata, holds = read_metadata(path), "a checkpoint"
        else:
            network = Subnetwork.load(path)
            metadata, holds = network.metadata, f"{len(network.state)} tensors, {len(network.masks)} of them masked"
    except InputError as error:
        item.problem = reason(error, path)
        return item, {}
    item.holds = f"{'+'.join(metadata.get('pipeline', []))}: {holds}"
    return item, metadata


def _weights(stage: VQAStage, source: str) -> Item:
    if source.endswith(CHECKPOINTS):
        file = Path(source)
        path: Path | None = file
        remedy = "the checkpoint that the model's authors publish; give the file with --model.backbone.pretrained FILE"
    else:
        path = find_locally(source, WEIGHTS)
        file = path.parent if path else Path(source)
        remedy = (
            f"{source} on Hugging Face: config.json and weights; give their folder with --model.backbone.pretrained"
        )
    item = _local_item("pre-trained weights", source, path, remedy)
    if path is None or item.state != "ok":
        return item
    # Loading the file where it lies keeps the hub from being asked for a newer one.
    stage.backbone.pretrained = str(file)  # type: ignore[assignment]
    try:
        item.holds = f"{stage.backbone.load_pretrained()}".removeprefix(f"{file}: ")
    except InputError as error:
        item.problem = reason(error, file)
    return item
