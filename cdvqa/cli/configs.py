"""Config files: how a name is found, also among those shipped with cdvqa, and which files are refused."""

import math
import re
import sys
import textwrap
from collections.abc import Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from shutil import get_terminal_size

import yaml

from cdvqa.errors import InputError, nearest

MAX_NODES, MAX_DEPTH, MAX_BYTES = 100_000, 50, 10_000_000  # of a config file; the largest shipped one has 40 nodes
BLOCKS = ("stage1", "stage2", "stage3")  # of an overlay
PACKAGE = Path(__file__).parent.parent
FOLDERS = {
    "configs": "stages",
    "backbone": "overlays: a backbone",
    "cluster": "overlays: a cluster",
    "data": "overlays: a data set",
    "size": "overlays: a size of the embedded worlds",
    "paper": "runs of the paper's figures and tables",
    "studies": "studies, for `cdvqa sweep`, `search` and `report`",
}


def shipped() -> Path:
    """The folder of shipped configs: inside an installed package, beside it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def run(args: list[str]) -> None:
    """Print the shipped configs."""
    if asked := args[1:]:
        if asked[0] not in ("--help", "-h"):
            raise InputError(f"{asked[0]}: takes no options")
        print("usage: cdvqa configs\n\nList the shipped configs by folder.")
        return
    print("\n".join(listing(get_terminal_size().columns if sys.stdout.isatty() else 120)))


def listing(width: int) -> list[str]:
    """The shipped configs, a line each, by folder."""
    found = sorted(shipped().rglob("*.yaml"), key=lambda path: (path.parent != shipped(), path))
    lines = list[str]()
    for folder, paths in groupby(found, key=lambda path: path.parent):
        texts = {path.name: about(path) for path in paths}
        names = max(map(len, texts))
        lines += ["", f"{FOLDERS.get(folder.name, folder.name)}:"]
        for name, text in texts.items():
            short = textwrap.shorten(text, max(width - names - 4, 20), placeholder=" …", break_on_hyphens=False)
            lines.append(f"  {name:<{names}}  {short}")
    return lines[1:]


def about(path: Path) -> str:
    """The first sentence that a config says of itself, in its field `about` or its leading comment."""
    text = path.read_text(encoding="utf-8")
    said = re.search(r"^about: (.*)", text, re.MULTILINE) or re.match(r"(?:#.*\n)+", text)
    words = " ".join(re.sub(r"^(# ?|about: )", "", said[0], flags=re.MULTILINE).split()) if said else ""
    return re.split(r"(?<!App)(?<!Fig)(?<!Eq)\. |; ", words)[0].rstrip(".")


def shipped_configs() -> list[Path]:
    """The shipped configs of runs. Those below `studies/` describe many runs, for `cdvqa sweep`."""
    return sorted(path for path in shipped().rglob("*.yaml") if path.parent.name != "studies")


def check_words(words: Sequence[str]) -> None:
    """Raise InputError where no config is given, or something is given without its option."""
    before = ""
    for word in words:
        if not before.startswith("-") and not word.startswith("-"):
            name = word if word.endswith(".yaml") else f"{word.rstrip('/')}/config.yaml"
            raise InputError(f"{word}: no option; a config is named by --config {name}")
        before = "" if "=" in word or not word.startswith("-") else word
    given = {word.partition("=")[0] for word in words}
    if not given & {"--config", "-c", "--model", "--model.class_path", "--print_config"} and "help" not in str(given):
        raise InputError(
            "no config is given; name one, such as --config stage1_bce.yaml (`cdvqa configs` lists the shipped ones)"
        )


def find_config(name: str) -> str:
    """A path as it is; a bare name that is no file, from the shipped configs.

    Raises:
        InputError: no shipped config has this name, or several have, or it is a study.
    """
    if not name or name.startswith("--"):
        raise InputError("--config: a name is missing; `cdvqa configs` lists the shipped ones")
    study = shipped() / "studies" / Path(name).name
    same = study.samefile(name) if Path(name).is_file() and study.is_file() else study.is_file()
    if same and not any(path.name == name for path in shipped_configs()):
        raise InputError(f"--config {name}: a study of many runs; `cdvqa sweep {study.stem}` runs them")
    if Path(name).is_file():
        check_config_file(Path(name))
        return name
    known = sorted(path.name for path in shipped_configs())
    like = nearest(Path(name).name, known)
    if Path(name).name != name:
        raise InputError(f"--config {name}: no such file; `cdvqa configs` lists the shipped ones{like}")
    found = [path for path in shipped_configs() if path.name == name]
    if len(found) > 1:
        raise InputError(f"--config {name}: several shipped configs have this name: {', '.join(map(str, found))}")
    if not found:
        listed = "`cdvqa configs` lists them"
        raise InputError(f"--config {name}: no such file, and no shipped config of this name; {listed}{like}")
    return str(found[0])


def resolve_configs(args: list[str]) -> list[str]:
    """Command-line arguments with every `--config` looked up, and split where it has blocks for single stages."""
    words, found = iter(args), list[tuple[str, Path | None, yaml.Node | None]]()
    for word in words:
        option, _, name = word.partition("=")
        if option in ("--config", "-c"):
            path = Path(find_config(name or next(words, "")))
            found.append(("", path, yaml.compose(path.read_text(encoding="utf-8"))))
        else:
            found.append((word, None, None))
    named = [entries(entries(tree).get("model")).get("class_path") for _, _, tree in found]
    stage = next((node.value for node in reversed(named) if node is not None), None)
    return [arg for word, path, tree in found for arg in ([word] if path is None else of_stage(path, tree, stage))]


def of_stage(path: Path, tree: yaml.Node | None, class_path: str | None) -> list[str]:
    """The arguments for a config: what all stages share, then the block `stage1:`, … of this stage."""
    blocks = {name: block for name, block in entries(tree).items() if name in BLOCKS}
    if tree is None or not blocks:
        return [f"--config={path}"]
    if wrong := next((name for name, block in blocks.items() if not isinstance(block, yaml.MappingNode)), None):
        raise InputError(f"{path}: {wrong}: expected a mapping of options to values")
    if class_path is None:
        raise InputError(f"{path}: has blocks for single stages, but no --config says which stage (model.class_path)")
    module, _, name = class_path.rpartition(".")
    try:
        stage = getattr(import_module(module or "cdvqa.stages"), name).stage
    except (ImportError, AttributeError) as error:
        raise InputError(f"model.class_path {class_path}: there is no such stage") from error
    tree.value = [(key, value) for key, value in tree.value if key.value not in BLOCKS]
    parts = [tree, blocks.get(f"stage{stage}")]
    return [f"--config={yaml.serialize(part)}" for part in parts if part is not None and part.value]


def entries(node: yaml.Node | None) -> dict[str, yaml.Node]:
    """The entries of a mapping; nothing of anything else."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}


def check_config_file(path: Path) -> None:
    """Raise InputError unless `path` holds a YAML mapping of moderate size, aliases written out.

    The sizes of anchored nodes are added up from the events: a bomb is found without being expanded.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: no config: larger than {MAX_BYTES // 1_000_000} MB")
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        events = list(yaml.parse(path.read_text(encoding="utf-8"), Loader=loader))
    except yaml.YAMLError as error:
        at = getattr(error, "problem_mark", None)
        where = f"line {at.line + 1}, column {at.column + 1}: " if at else ""
        raise InputError(f"{path}: {where}broken YAML: {getattr(error, 'problem', None) or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: no text in UTF-8, so no YAML") from error
    sizes: dict[str, float] = {}
    opened: list[tuple[str | None, float]] = []  # anchor, and nodes inside so far
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, 1))
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = opened.pop()
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, sizes.get(event.anchor, math.inf)  # inside itself: endless
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        else:
            continue
        if anchor:
            sizes[anchor] = size
        if opened:
            opened[-1] = (opened[-1][0], opened[-1][1] + size)
        if size > MAX_NODES or len(opened) > MAX_DEPTH:
            raise InputError(f"{path}: no config: too deep, or its aliases stand for too much")
    top = next((event for event in events if isinstance(event, yaml.NodeEvent)), None)
    if top is not None and not isinstance(top, yaml.MappingStartEvent):
        raise InputError(f"{path}: no config: expected a mapping of options to values")
