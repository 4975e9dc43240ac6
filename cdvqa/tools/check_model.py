"""What a config needs beside its data: word pieces, and the weights or the run that its stage starts from."""

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from cdvqa.data.text import load_tokenizer
from cdvqa.errors import InputError
from cdvqa.runs import network_file, parent_run
from cdvqa.sparsity import Subnetwork
from cdvqa.stages import VQAStage
from cdvqa.tools.findings import Finding, Item, Report, reason

VOCABULARIES = ("vocab.txt", "tokenizer.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def check_tokenizer(source: str, vocab_size: int | None) -> Report:
    """The word-piece vocabulary; `vocab_size` is the number of pieces that the backbone embeds."""
    remedy = "bert-base-uncased on Hugging Face: its vocab.txt, given with --data.tokenizer FILE"
    path = find_locally(source, VOCABULARIES)
    item = _local_item("word pieces", source, path, remedy)
    if path is None or item.size is None:
        return Report([item], [])
    try:
        pieces = load_tokenizer(path).get_vocab_size()
    except InputError as error:
        item.problem = reason(error, path)
        return Report([item], [])
    item.holds = f"{pieces:,} word pieces"
    if vocab_size is None:
        return Report([item], [])
    return Report([item], [Finding(pieces <= vocab_size, f"{item.holds}, the backbone embeds {vocab_size:,}")])


def check_start(stage: VQAStage, run_folder: Path) -> Report:
    """What the stage in `run_folder` starts from: a given network, its parent run, or published weights."""
    if stage.start is not None:
        return Report([_network("starting network", lambda: network_file(str(stage.start)))], [])
    if stage.stage > 1:
        where = (run_folder, stage.stage, stage.pipeline, stage.sparsity)
        return Report([_network("parent run", lambda: parent_run(*where).result())], [])
    source = getattr(stage.backbone, "pretrained", None)
    return Report([_weights(stage, source)] if source else [], [])


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


def _network(what: str, find: Callable[[], Path]) -> Item:
    """A network that another run has written; where there is none, the error tells how to make it."""
    try:
        path = find()
    except InputError as error:
        where, _, remedy = str(error).partition(": ")
        return Item(what, where, remedy)
    item = Item.file(what, path, "run the stage that makes it again")
    try:
        network = Subnetwork.load(path)
    except InputError as error:
        item.problem = reason(error, path)
    else:
        pipeline = "+".join(network.metadata.get("pipeline", []))
        item.holds = f"{pipeline}: {len(network.state)} tensors, {len(network.masks)} of them masked"
    return item


def _weights(stage: VQAStage, source: str) -> Item:
    remedy = f"{source} on Hugging Face: config.json and weights; give their folder with --model.backbone.pretrained"
    path = find_locally(source, WEIGHTS)
    item = _local_item("pre-trained weights", source, path, remedy)
    if path is None or item.size is None:
        return item
    # Loading the file where it lies keeps the hub from being asked for a newer one.
    stage.backbone.pretrained = str(path.parent)  # type: ignore[assignment]
    try:
        item.holds = f"{stage.backbone.load_pretrained()}".removeprefix(f"{path.parent}: ")
    except InputError as error:
        item.problem = reason(error, path.parent)
    return item
