"""docs/benchmarks.md and one plot per topic, from docs/benchmarks/*.json: `python -m benchmarks.page`."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # works without a display

from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from tabulate import tabulate

from benchmarks.record import FOLDER, Record
from cdvqa.files import read_json, write_atomically

MET, MISSED = "tab:blue", "tab:red"
INTRODUCTION = """# Benchmarks

`make benchmarks` writes this page from `docs/benchmarks/*.json`. Each topic is a program under `benchmarks/` that runs
cdvqa and its baseline alternately. Times differ between machines, so compare the ratios: ours over the baseline, or
over the limit where the goal refers to the limit. `make benchmarks BENCHMARKS=gpu` runs the topic that needs a GPU.
"""


def main() -> None:
    topics = [read_json(path) for path in sorted(FOLDER.glob("*.json"))]
    sections = [section(topic) for topic in topics]
    for topic in topics:
        plot(topic["topic"], records(topic), FOLDER / f"{topic['topic']}.png")
    with write_atomically(FOLDER.with_suffix(".md")) as temporary:
        temporary.write_text("\n".join([INTRODUCTION, *sections]))


def records(topic: dict[str, Any]) -> list[Record]:
    """The rows of a topic's file; ratio and verdict follow from the rest."""
    return [Record(**{key: row[key] for key in Record.__dataclass_fields__}) for row in topic["records"]]


def section(topic: dict[str, Any]) -> str:
    """A heading, where it was measured, the plot and the table."""
    name, machine = topic["topic"], topic["machine"]
    made = ", ".join(f"{package} {version}" for package, version in topic["versions"].items())
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB" + (
        f", {machine['gpu']}" if machine["gpu"] else ""
    )
    sets = ", ".join(machine["instruction_sets"])
    lines = [
        f"## {name.replace('_', ' ').capitalize().replace('Gpu', 'GPU')}\n",
        f"`python -m benchmarks.{name}`, {topic['date']}: {where} ({sets}); {made}.\n",
        *([f"{topic['note']}\n"] if topic["note"] else []),
        f"![{name}](benchmarks/{name}.png)\n",
        table(records(topic)),
    ]
    return "\n".join(lines)


def table(rows: list[Record]) -> str:
    verdicts = {True: "yes", False: "**no**", None: ""}
    headers = ["", "ours", "baseline", "limit", "ratio", "goal", "met", ""]
    cells = [
        [
            row.name,
            quantity(row.ours, row.unit),
            quantity(row.baseline, row.unit),
            quantity(row.limit, row.unit),
            number(row.ratio),
            row.goal,
            verdicts[row.met],
            row.note,
        ]
        for row in rows
    ]
    if not any(row.note for row in rows):
        headers, cells = headers[:-1], [cell[:-1] for cell in cells]
    return str(tabulate(cells, headers, tablefmt="github", disable_numparse=True)) + "\n"


def quantity(value: float | None, unit: str) -> str:
    return "" if value is None else f"{number(value)} {unit}"


def number(value: float | None) -> str:
    """Three significant digits, or all digits before the point."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plot(name: str, rows: list[Record], path: Path) -> None:
    """A bar for each figure with a goal, as a multiple of that goal; the dashed line is the goal."""
    judged = [(row, row.share) for row in rows if row.share is not None][::-1]
    figure, axis = plt.subplots(figsize=(9, 1.3 + 0.42 * len(judged)))
    axis.barh(
        range(len(judged)),
        [share - 1 for _, share in judged],
        0.62,
        left=1,
        color=[MET if row.met else MISSED for row, _ in judged],
    )
    axis.set_yticks(range(len(judged)), [row.name for row, _ in judged])
    for place, (row, _) in enumerate(judged):
        value = quantity(row.ours, row.unit) if row.ratio is None else number(row.ratio)
        beside = axis.get_yaxis_transform()
        axis.text(1.01, place, f"{value}  (goal {row.goal})", va="center", fontsize=9, transform=beside)
    axis.set_xscale("log")  # some figures are 100 times better than their goal
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.axvline(1, color="black", linewidth=1, linestyle="--")
    axis.set(xlabel="multiple of the goal (blue: met, red: not met)", title=name.replace("_", " "))
    axis.spines[["top", "right"]].set_visible(False)
    with write_atomically(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
