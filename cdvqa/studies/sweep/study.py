"""A study: a grid over pipelines, methods, sparsities, settings and seeds, read from YAML."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from cdvqa.cli.configs import check_config_file, shipped
from cdvqa.errors import InputError, nearest
from cdvqa.studies.sweep.shares import shares_of

STAGES = ("stage1", "stage2", "stage3")
GRID = {"data", "backbone", "configs", "pipeline", "method", "sparsity", "assignment", "shares", "criterion",
        "pattern", "teacher", "settings", "seeds", *STAGES}  # fmt: skip
STUDY = {"about", "cost", "runs", "claims", "figure"}
# Objectives in a pipeline: one for each stage that trains; one-shot pruning trains nothing.
OBJECTIVES = {"full": (1, 1), "mask": (2, 3), "omp": (1, 2)}
# With a size, a study runs on the embedded world in the files of its data set, and with the overlay of that world.
WORLDS = {"vqacp2": "scenes", "vqavs": "scenes-vs"}
SIZES = {"scenes": "micro.yaml", "scenes-vs": "micro-vs.yaml"}
RECORDS = Path("docs/study")


@dataclass(frozen=True)
class Point:
    """One run of a study, with all its seeds.

    Attributes:
        configs: overlays: data set, backbone, and what the study adds.
        pipeline: objectives from stage 1 on.
        method: `full` (stage 1 alone), `mask` or `omp`.
        sparsity: options below `model.sparsity`.
        settings: options of each stage, by its number.
        seeds: one run each.
        teacher: a full model for the objectives that need a teacher.
    """

    configs: tuple[str, ...]
    pipeline: tuple[str, ...]
    method: str
    sparsity: Mapping[str, Any]
    settings: Mapping[int, Mapping[str, Any]]
    seeds: tuple[int, ...]
    teacher: "Point | None" = None

    def __str__(self) -> str:
        sparsity = [f"{name} {value}" for name, value in self.sparsity.items() if name != "method"]
        return ", ".join(["+".join(self.pipeline), self.method, *sparsity])


@dataclass(frozen=True)
class Study:
    """What a study's file says.

    Attributes:
        name: the file's name without `.yaml`, and the size, if one was asked for.
        points: its runs.
        about: what it shows.
        cost: what it costs at full size: `runs`, and `gpu_hours` (an estimate).
        claims: what the report judges.
        figure: how the report draws it.
    """

    name: str
    points: Sequence[Point]
    about: str = ""
    cost: Mapping[str, float] = field(default_factory=dict)
    claims: Sequence[Mapping[str, Any]] = ()
    figure: Mapping[str, Any] = field(default_factory=dict)


def read_study(file: str, size: str | None = None, seeds: int | None = None, records: Path = RECORDS) -> Study:
    """Read a study from a file, or from the shipped one of this name.

    `runs` is a list of grids. Each value of a grid may be a list, also inside `shares`, `settings` and the stages'
    settings: every combination is a run. Values that all grids share are written beside `runs`. `shares` may also be
    `{from: 0.1, to: 0.9, step: 0.2}`, every assignment of App. C.4 at the given sparsity, or `{best_of: fig8}`, the one
    that did best on the development split in that study.

    Args:
        file: the path, or a shipped study's name.
        size: `micro` puts the study on the small embedded world; None leaves it as it is.
        seeds: how many seeds, in place of the file's.
        records: folder of the records of studies, for `best_of`.

    Raises:
        InputError: there is no such study, or a key or value is wrong; the message names the grid.
    """
    path = find_study(file)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if wrong := set(content) - GRID - STUDY:
        raise InputError(f"{path}: unknown: {', '.join(map(str, wrong))}; there are {', '.join(sorted(GRID | STUDY))}")
    shared = {name: value for name, value in content.items() if name in GRID}
    own_seeds = {} if seeds is None else {"seeds": seeds}
    grids = content.get("runs")
    if not isinstance(grids, list) or not all(isinstance(grid, dict) for grid in grids) or not grids:
        raise InputError(f"{path}: runs: expected a list of grids")
    points: list[Point] = []
    for number, grid in enumerate(grids, 1):
        try:
            if wrong := set(grid) - GRID:
                raise InputError(f"unknown: {', '.join(map(str, wrong))}; there are {', '.join(sorted(GRID))}")
            points += points_of({**shared, **grid, **own_seeds}, size, records)
        except InputError as error:
            raise InputError(f"{path}: grid {number} of runs: {error}") from error
    texts = {name: content[name] for name in STUDY - {"runs"} if name in content}
    return Study(f"{path.stem}-{size}" if size else path.stem, points, **texts)


def find_study(name: str) -> Path:
    """A file, or the shipped study of this name; InputError if there is neither, or if it is no YAML."""
    path = Path(name)
    if not path.is_file():
        path = shipped() / "studies" / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        shipped_are = f"shipped are {', '.join(known)}{nearest(path.stem, known)}"
        raise InputError(f"study {name}: no such file, and no shipped study of this name; {shipped_are}")
    check_config_file(path)
    return path


def points_of(grid: Mapping[str, Any], size: str | None = None, records: Path = RECORDS) -> Iterator[Point]:
    """The points of one grid; InputError if a value is wrong."""
    seeds = grid.get("seeds", 4)
    seeds = tuple(seeds) if isinstance(seeds, list) else tuple(range(seeds)) if isinstance(seeds, int) else ()
    if not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise InputError("seeds: expected a number of seeds or a list of them")
    more = tuple(grid.get("configs", ()))
    for chosen in combinations({name: value for name, value in grid.items() if name not in ("seeds", "configs")}):
        if missing := [name for name in ("data", "backbone", "pipeline") if not isinstance(chosen.get(name), str)]:
            raise InputError(f"{missing[0]}: expected a name")
        pipeline, method = tuple(chosen["pipeline"].split("+")), chosen.get("method", "full")
        least, most = OBJECTIVES.get(method, (0, 0))
        if not most:
            raise InputError(f"method {method}: there are {', '.join(OBJECTIVES)}")
        if not least <= len(pipeline) <= most:
            wanted = str(least) if least == most else f"{least} or {most}"
            raise InputError(f"pipeline {chosen['pipeline']}: method {method} takes {wanted} objectives")
        configs = (*overlays(chosen["data"], chosen["backbone"], size), *more)
        for shares in shares_of(chosen.get("shares") or {}, chosen.get("sparsity"), configs, records, size):
            sparsity = sparsity_of({**chosen, "shares": shares}, method)
            teacher = teacher_of(chosen, size, more, seeds)
            yield Point(configs, pipeline, method, sparsity, settings_of(chosen), seeds, teacher)


def teacher_of(
    chosen: Mapping[str, Any], size: str | None, more: tuple[str, ...], seeds: tuple[int, ...]
) -> Point | None:
    """The teacher of a combination, on the same data, with the same further overlays and settings; None without one."""
    given = chosen.get("teacher")
    if given is None:
        return None
    if not isinstance(given, Mapping) or not isinstance(given.get("pipeline"), str) or "+" in given["pipeline"]:
        raise InputError("teacher: expected {pipeline: OBJECTIVE}, and `backbone` where it is another one")
    if wrong := given.keys() - {"pipeline", "backbone"}:
        raise InputError(f"teacher: unknown: {', '.join(map(str, wrong))}; there are backbone, pipeline")
    configs = (*overlays(chosen["data"], given.get("backbone", chosen["backbone"]), size), *more)
    settings = settings_of({"settings": chosen.get("settings", {})})
    return Point(configs, (given["pipeline"],), "full", {}, settings, seeds)


def combinations(value: Any) -> Iterator[Any]:
    """Every choice of one entry from each list in nested mappings."""
    if isinstance(value, list):
        for entry in value:
            yield from combinations(entry)
    elif isinstance(value, Mapping):
        for entries in product(*map(combinations, value.values())):
            yield dict(zip(value, entries, strict=True))
    else:
        yield value


def overlays(data: str, backbone: str, size: str | None = None) -> tuple[str, ...]:
    """The shipped configs of a data set, a size and a backbone; a later one wins.

    The config of an embedded world already has the small LXMERT.
    """
    if size not in (None, "micro"):
        raise InputError(f"size {size}: there is micro")
    if size:
        data = WORLDS.get(data, data)
    if size and data not in SIZES:
        raise InputError(f"data {data}: has no size {size}")
    chosen = [f"{data}.yaml", *([SIZES[data]] if size else [])]
    if data not in (*SIZES, "easyvqa"):
        chosen.append(f"{backbone}.yaml")
    elif backbone != "lxmert":
        chosen.append(f"scenes_{backbone}.yaml")
    return tuple(chosen)


def sparsity_of(chosen: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The options of `model.sparsity` that a combination gives."""
    shares = chosen.get("shares") or {}
    given = {
        "overall": chosen.get("sparsity"),
        **{name: chosen.get(name) for name in ("assignment", "criterion", "pattern")},
    }
    given = {name: value for name, value in (given | dict(shares)).items() if value is not None}
    if method == "full" and given:
        raise InputError(f"{', '.join(given)}: a full model has no sparsity")
    if shares and "assignment" not in given:
        given["assignment"] = "modality"
    return given if method == "full" else {"method": method, **given}


def settings_of(chosen: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The settings of each stage: those of all stages, and its own."""
    return {number: {**chosen.get("settings", {}), **chosen.get(name, {})} for number, name in enumerate(STAGES, 1)}
