"""The results under a logs folder as a table and a figure."""

from pathlib import Path

from cdvqa.files import write_atomically
from cdvqa.studies.figure import plot_accuracy
from cdvqa.studies.runs_table import markdown, read_runs


def report(logs: Path = Path("logs"), output: Path | None = None) -> None:
    """Tabulate every tested run and draw accuracy against kept parameters.

    Args:
        logs: folder that holds `<data>/<backbone>/<run>/seed<k>/`.
        output: folder for report.md, runs.csv and one figure per data set and backbone; the logs folder where null.
    """
    output = output or logs
    runs = read_runs(logs)
    table = markdown(runs)
    figures = []
    for (data, backbone), group in runs.groupby(["data", "backbone"], sort=False):
        path = output / f"accuracy_{data}_{backbone}.png"
        plot_accuracy(group, path)
        figures.append(path)
    with write_atomically(output / "runs.csv") as temporary:
        runs.to_csv(temporary, index=False)
    pictures = "\n".join(f"![accuracy against kept parameters]({path.name})" for path in figures)
    selections = ", ".join(sorted(set(runs["selection"])))
    with write_atomically(output / "report.md") as temporary:
        temporary.write_text(
            f"# Results\n\nModels selected on: {selections}.\n\n{table}\n\n{pictures}\n", encoding="utf-8"
        )
    print(f"{table}\n\nwritten: {output / 'report.md'}, {output / 'runs.csv'}, {', '.join(map(str, figures))}")
