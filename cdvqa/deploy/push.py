"""`cdvqa push`: a network and its model card in a folder that needs nothing else, or on the Hugging Face hub."""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Optional

import yaml
from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from cdvqa.cli.parsing import call
from cdvqa.deploy.export import write_small
from cdvqa.deploy.network import PRIOR, TOKENIZER, Network, load
from cdvqa.errors import InputError, Stopped
from cdvqa.files import write_folder, write_json
from cdvqa.objectives.state import FILE
from cdvqa.runs.folder import Run, percent, read_results, run_of
from cdvqa.sparsity.files.write import Precision

HUB, TASK = "hf://", "visual-question-answering"
CONTAMINATION = {
    "lxmert": "Published LXMERT was pre-trained with the answers of VQA v2's train split and of most of its validation "
    "split. VQA-CP v2 and VQA-VS divide the same questions again, so that it has seen answers of their test splits.",
}
OTHERS = (
    "VQA-CP v2 and VQA-VS divide the questions of VQA v2 again. Weights that were pre-trained on VQA v2, Visual Genome "
    "or COCO may have seen images or answers of their test splits."
)
WORLDS = "The small models of the embedded worlds were pre-trained on balanced questions about images of their own."


def run(args: list[str]) -> None:
    """Run `cdvqa push` with command-line arguments."""
    network = {"help": "A finished run's folder, such as logs/scenes/lxmert/stage2_…/seed0."}
    print(call(push, args, {"network": network}))


def push(network: str, to: str, dtype: Precision = "fp32", license: Optional[str] = None) -> str:
    """Write a network, what it needs to answer, and its model card into a new folder, or upload them.

    Args:
        network: a finished run's folder.
        to: a new folder, or a repository on the hub as `hf://user/name`, to which it is uploaded.
        dtype: of the kept values.
        license: of the network, by the hub's name for it, such as mit; the card says so where there is none.

    Returns:
        A line with the folder or address.

    Raises:
        InputError: no finished run, a folder that exists, or as `upload`.
        Stopped: the hub cannot be reached.
    """
    source = run_of(Path(network))
    if source is None:
        raise InputError(f"{network}: no run folder; name that of a finished run")
    if not to.startswith(HUB) and re.match(r"\w{2,}:", to):  # one letter is a drive
        raise InputError(f"--to {to}: expected a new folder, or {HUB}user/name to upload")
    if not to.startswith(HUB):
        folder = Path(to)
        if folder.exists():
            raise InputError(f"--to {to}: it is there already; name a new folder, or {HUB}user/name to upload")
        write(source, folder, dtype, license)
        return f"written: {folder}: cdvqa.load({str(folder)!r}) answers with it; its card is README.md"
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "network"
        write(source, folder, dtype, license)
        return f"uploaded: {upload(folder, to.removeprefix(HUB))}"


def write(source: Run, folder: Path, dtype: Precision, license: str | None) -> None:
    """Write everything into a new folder, whole or not at all."""
    network = load(source.folder)
    assert network.backbone.tokenizer is not None
    with write_folder(folder) as temporary:
        write_small(source, temporary / source.result().name, dtype)
        for path in (source.record, source.results, source.folder / FILE):
            if path.is_file():
                shutil.copy(path, temporary)
        (temporary / "config.yaml").write_text(portable(source, network))
        network.backbone.tokenizer.save(str(temporary / TOKENIZER))
        if network.prior is not None:
            table = {"question_types": network.prior.question_types, "table": network.prior.table}
            write_json(temporary / PRIOR, table)
        card(source, network, dtype, license).save(temporary / "README.md")


def portable(source: Run, network: Network) -> str:
    """The run's config without paths of other files: the network is built from its sizes alone."""
    config = yaml.safe_load(source.config.read_text())
    arguments = config["model"]["init_args"]
    backbone = arguments["backbone"]
    backbone["init_args"] = (backbone.get("init_args") or {}) | network.backbone.from_scratch()
    config["data"]["tokenizer"] = None
    for name in ("init_from", "teacher"):
        arguments[name] = None
    text: str = yaml.safe_dump(config, sort_keys=False)
    return text


def card(source: Run, network: Network, dtype: Precision, license: str | None) -> ModelCard:
    """The model card: results, how the model was selected, what it was trained on, and how to load it."""
    record, results, data = source.read(), read_results(source), str(network.data.name)
    scores = results.get("splits", {})
    metadata = ModelCardData(
        library_name="cdvqa",
        license=license,
        tags=[TASK, "pruning", "debiasing", network.backbone.name],
        model_name=network.name,
        eval_results=[
            EvalResult(TASK, data, data, "vqa_accuracy", round(score["all"], 2), dataset_split=name)
            for name, score in scores.items()
        ],
    )
    lines = [f"---\n{metadata.to_yaml()}\n---", f"# {network.name}", described(record, network), "## Results"]
    embedded = (network.data.root / "world.json").is_file()
    if scores:
        rows = [f"| {name} | {score['distribution']} | {score['all']:.2f} |" for name, score in scores.items()]
        lines.append("\n".join(["| test set | distribution | VQA accuracy (%) |", "| --- | --- | --- |", *rows]))
        if dtype != "fp32":
            lines.append(f"They were measured in fp32, before the values were stored as {dtype}.")
        if embedded:
            lines.append("They are of an embedded world, and not comparable with published numbers.")
    else:
        lines.append("This run was not tested.")
    chosen = record["selected"]
    step = f", step {chosen['step']}" if chosen and chosen.get("step") is not None else ""
    lines += [
        f"The model was selected on: {record['selection']}{step}.",
        "## Training",
        f"Preset `{record['preset']}`; departures from it: {listed(record['departures'])}. Seed {record['seed']}, "
        f"identity `{record['identity']}`.",
        "Files, by SHA-256:\n\n"
        + "\n".join(f"- `{name}`: `{file['sha256']}`" for name, file in record["data"]["files"].items()),
        f"Features: {listed(network.metadata['features'], ('extractor', 'shape', 'sample_sha256'))}.",
        "## What the pre-trained weights have seen",
        WORLDS if embedded else CONTAMINATION.get(network.backbone.name, OTHERS),
        "## Licence",
        f"{license or 'None was stated for this network.'} The pre-trained weights and the annotations have licences "
        "of their own; the annotations of VQA v2 are under CC BY 4.0.",
        "## Use",
        f"```python\n{USE}```",
    ]
    return ModelCard("\n\n".join(lines) + "\n")


USE = """\
# pip install cdvqa
import cdvqa
from huggingface_hub import snapshot_download

folder = "."  # this folder, or snapshot_download("user/name")
network = cdvqa.load(folder)
# features: regions of the image (R, F), from the extractor named above; boxes (R, 4): x1/w, y1/h, x2/w, y2/h
reply = network.ask("how many cats are there?", features=features, boxes=boxes)
print(reply.answers, reply.question_type, reply.prior)
"""


def described(record: dict[str, Any], network: Network) -> str:
    """The network in two sentences: backbone, pipeline and sparsity."""
    pipeline, sparsity = "+".join(record["pipeline"]), record.get("sparsity")
    text = f"{type(network.backbone).__name__} for visual question answering, trained with `{pipeline}` by cdvqa."
    if not sparsity:
        return f"{text} All of its weights are kept."
    kept, full = (record["parameters"][name] for name in ("kept", "full"))
    return (
        f"{text} {percent(sparsity['overall'])} % of the weights are zero ({sparsity['method']}, "
        f"{sparsity['assignment']}): {kept:,} of {full:,} parameters are kept."
    )


def listed(values: dict[str, Any], names: tuple[str, ...] = ()) -> str:
    """`global_batch 64, selection last`; of the given names, or of all; `none` where there is nothing."""
    found = {name: values.get(name) for name in names or values}
    return ", ".join(f"{name} {value}" for name, value in found.items() if value is not None) or "none"


def upload(folder: Path, repository: str) -> str:
    """Upload a folder to the hub; return its address.

    Raises:
        InputError: no such repository, or no right to write to it.
        Stopped: the hub cannot be reached.
    """
    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--to {HUB}{repository}: {reason}; `hf auth login` gives the right to write") from error
    except (OfflineModeIsEnabled, ConnectionError) as error:
        raise Stopped(f"--to {HUB}{repository}: the hub cannot be reached; write to a folder instead") from error
