"""Finding config files, those that travel with cdvqa too, and refusing what is none."""

import math
from pathlib import Path

import yaml

from cdvqa.errors import InputError

MAX_NODES, MAX_DEPTH, MAX_BYTES = 100_000, 50, 10_000_000  # of a config file; the largest shipped one has 40 nodes
PACKAGE = Path(__file__).parent.parent


def shipped() -> Path:
    """The folder of shipped configs: inside an installed package, beside it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def find_config(name: str) -> str:
    """A path as it is; a bare name that is no file, from the shipped configs.

    Raises:
        InputError: no shipped config has this name, or several have.
    """
    if Path(name).is_file():
        check_config_file(Path(name))
        return name
    if Path(name).name != name:
        raise InputError(f"--config {name}: no such file")
    found = sorted(path for path in shipped().rglob("*.yaml") if path.name == name)
    if len(found) > 1:
        raise InputError(f"--config {name}: several shipped configs have this name: {', '.join(map(str, found))}")
    if not found:
        known = ", ".join(sorted(path.name for path in shipped().rglob("*.yaml")))
        raise InputError(f"--config {name}: no such file, and no shipped config of this name; shipped are {known}")
    return str(found[0])


def resolve_configs(args: list[str]) -> list[str]:
    """Command-line arguments with every `--config` value looked up."""
    resolved = list(args)
    for i, arg in enumerate(args):
        if arg in ("--config", "-c") and i + 1 < len(args):
            resolved[i + 1] = find_config(args[i + 1])
        elif arg.startswith("--config="):
            resolved[i] = f"--config={find_config(arg.removeprefix('--config='))}"
    return resolved


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
