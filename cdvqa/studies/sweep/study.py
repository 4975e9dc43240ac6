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
CLAIM = {"text", "source", "better", "worse", "by", "on"}
# Objectives in a pipeline: one for each stage that trains; one-shot pruning trains nothing.
OBJECTIVES = {"full": (1, 1), "mask": (2, 3), "omp": (1, 2)}
# With a size, a study runs on the embedded world in the files of its data set, and with the overlay of that world.
WORLDS = {"vqacp2": "scenes", "vqavs": "scenes-vs"}
SIZES = {"scenes": "micro.yaml", "scenes-vs": "micro-vs.yaml"}
RECORDS = Path("docs/study")
NAMES = ("data", "backbone", "pipeline", "method")
COST = {"runs", "gpu_hours"}
EXPECTED = {str: "text", dict: "a mapping", list: "a list"}


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

    @property
    def stages(self) -> int:
        """How many stages its runs have: one-shot pruning is one without an objective."""
        return len(self.pipeline) + (self.method == "omp")

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
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
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
            of_grid = list(points_of({**shared, **grid, **own_seeds}, size, records))
            refuse_unread(grid, of_grid)
            points += of_grid
        except InputError as error:
            raise InputError(f"{path}: grid {number} of runs: {error}") from error
    try:
        refuse_unread(shared, points)
        texts = checked_texts({name: content[name] for name in STUDY - {"runs"} if name in content})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return Study(f"{path.stem}-{size}" if size else path.stem, points, **texts)


def checked_texts(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a study's file says beside its runs; InputError if it is not what the report and `--dry_run` can use."""
    for name, kind in {"about": str, "cost": dict, "claims": list, "figure": dict}.items():
        if not isinstance(given.get(name, kind()), kind):
            raise InputError(f"{name}: expected {EXPECTED[kind]}, not {given[name]!r:.60}")
    cost = given.get("cost", {})
    if cost and (set(cost) != COST or not all(isinstance(number, int | float) for number in cost.values())):
        raise InputError(f"cost: expected {{runs: NUMBER, gpu_hours: NUMBER}}, not {cost!r:.60}")
    return {**given, "claims": [checked_claim(claim) for claim in given.get("claims", ())]}


def checked_claim(given: Any) -> dict[str, Any]:
    """A claim as the report judges it.

    Raises:
        InputError: it has an unknown key or no `text`, `better` or `worse`, or a value of a wrong type.
    """
    claim = plain_keys(given, "claim")
    named = f"claim {claim.get('text', '')!r}"
    if wrong := set(claim) - CLAIM or {"text", "better", "worse"} - set(claim):
        raise InputError(f"{named}: missing or unknown: {', '.join(sorted(wrong))}")
    if not isinstance(claim.get("by", 0), int | float):
        raise InputError(f"{named}: by: expected a number of points, not {claim['by']!r:.60}")
    filters = {name: plain_keys(claim[name], f"{named}: {name}") for name in ("better", "worse")}
    return claim | filters


def plain_keys(given: Any, what: str) -> dict[str, Any]:
    """A claim or figure as a study's file has it, with the key `on`, which YAML 1.1 reads as true.

    Raises:
        InputError: it is no mapping; the message begins with `what`.
    """
    if not isinstance(given, Mapping):
        raise InputError(f"{what}: expected a mapping, not {given!r:.60}")
    return {"on" if key is True else str(key): value for key, value in given.items()}


def refuse_unread(given: Mapping[str, Any], points: Sequence[Point]) -> None:
    """Raise InputError if there is no run, or settings are given for a stage that no run has."""
    if not points:
        raise InputError("no run: a list is empty, or no shares can have the sparsity")
    deepest = max(point.stages for point in points)
    if unread := [name for name in STAGES[deepest:] if name in given]:
        raise InputError(f"{unread[0]}: no run here has such a stage; leave it out")


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
    more = grid.get("configs", [])
    if not isinstance(more, list) or not all(isinstance(name, str) for name in more):
        raise InputError(f"configs: expected a list of names, not {more!r:.60}")
    more = tuple(more)
    for chosen in combinations({name: value for name, value in grid.items() if name not in ("seeds", "configs")}):
        chosen = {"method": "full"} | chosen
        if missing := [name for name in NAMES if not isinstance(chosen.get(name), str)]:
            raise InputError(f"{missing[0]}: expected a name")
        for name in ("settings", *STAGES):
            if not isinstance(chosen.get(name, {}), Mapping):
                raise InputError(f"{name}: expected a mapping of options to values, not {chosen[name]!r:.60}")
        pipeline, method = tuple(chosen["pipeline"].split("+")), chosen["method"]
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
