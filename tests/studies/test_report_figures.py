"""Figures of a report: kinds, panels, gaps."""

from typing import Any

import pandas as pd
import pytest
from matplotlib.axes import Axes

from cdvqa.errors import InputError
from cdvqa.studies.report.figures import figure, study_figures, usual_figures
from cdvqa.studies.report.table import runs_table
from tests.studies.made_up import first, line


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    lines = [line(stage1, seed, first(100 + 40 * seed)) for stage1 in ("bce", "lmh") for seed in range(2)]
    lines += [
        line(f"{stage1}+{stage2}", seed, first(200 + int(100 * zeros) + 10 * seed), zeros)
        for stage1 in ("bce", "lmh")
        for stage2 in ("bce", "lmh")
        for zeros in (0.1, 0.5, 0.9)
        for seed in range(2)
    ]
    return runs_table(lines)[0]


def axes_of(runs: pd.DataFrame, **spec: Any) -> list[Axes]:
    (drawn,) = figure("x", "t", runs, spec)
    return drawn.drawing.axes


def test_curves_have_the_means_over_seeds_and_full_models_are_lines(runs: pd.DataFrame):
    (axis,) = axes_of(runs)
    lines = {line.get_label(): line for line in axis.get_lines()}
    curve = lines["lxmert(bce) + mask train(lmh)"]
    assert list(curve.get_xdata()) == pytest.approx([10, 50, 90])
    assert list(curve.get_ydata()) == pytest.approx([100 * (n + 5) / 400 for n in (210, 250, 290)])
    assert list(lines["full lxmert(bce)"].get_ydata()) == pytest.approx([30, 30])
    assert len(axis.collections) == 4 and len(axis.patches) == 2, "a shadow for each curve and full model"


def test_panels_hold_their_runs_and_gaps_stand_below(runs: pd.DataFrame):
    gap = {"better": {"stage2": "lmh"}, "worse": {"method": "full"}, "label": "lmh over full"}
    bce, lmh, gap_bce, _ = axes_of(runs, panels="stage1", gap=gap)
    assert bce.get_title().startswith("stage1 bce") and lmh.get_title().startswith("stage1 lmh")
    assert {str(line.get_label()) for line in bce.get_lines()} == {
        "full lxmert(bce)",
        "lxmert(bce) + mask train(bce)",
        "lxmert(bce) + mask train(lmh)",
    }
    heights = [bar.get_height() for bar in gap_bce.patches]
    assert heights == pytest.approx([100 * (n + 5 - 120) / 400 for n in (210, 250, 290)])


def test_several_accuracies_are_columns_of_a_panel(runs: pd.DataFrame):
    axes = axes_of(runs, panels="stage1", on=["ood", "yes/no"])
    assert [axis.get_title() for axis in axes][:2] == ["stage1 bce, out of distribution", "stage1 bce, yes/no"]
    assert len(axes) == 4


def test_more_curves_than_colours_have_a_legend_for_each_row():
    objectives = ("bce", "lmh", "lpf", "rubi", "poe", "ce")
    lines = [line(f"{one}+{two}", 0, first(200), 0.5) for one in ("bce", "lmh") for two in objectives]
    axes = axes_of(runs_table(lines)[0], kind="bars", panels="stage1", on=["ood", "yes/no"])
    for row, stage1 in zip((axes[:2], axes[2:]), ("bce", "lmh"), strict=True):
        assert row[0].get_legend() is None
        handles, names = row[1].get_legend_handles_labels()
        assert [text.get_text() for text in row[1].get_legend().get_texts()] == names
        assert set(names) == {f"lxmert({stage1}) + mask train({two})" for two in objectives}
        assert len({bars.patches[0].get_facecolor() for bars in handles}) == len(objectives)


def test_bars_stand_in_groups_by_sparsity(runs: pd.DataFrame):
    (axis,) = axes_of(runs, kind="bars")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["10", "50", "90"]
    heights = [bar.get_height() for bar in axis.patches if 0 < bar.get_width() < 0.5]
    assert len(heights) == 12 and max(heights) == pytest.approx(100 * 295 / 400)


@pytest.mark.parametrize("kind", ["bars", "curves"])
def test_full_models_alone_are_bars_with_their_names(runs: pd.DataFrame, kind: str):
    full = runs[runs["method"] == "full"]
    axes = axes_of(full, kind=kind, on=["ood", "yes/no"])
    assert [label.get_text() for label in axes[0].get_yticklabels()] == ["full lxmert(bce)", "full lxmert(lmh)"]
    for axis, accuracy in zip(axes, ("ood", "yes/no"), strict=True):
        means = full.groupby("curve", sort=False)[accuracy].mean()
        assert [bar.get_width() for bar in axis.patches] == pytest.approx(means.to_list())
    assert not axes[1].yaxis.get_tick_params()["labelleft"], "the names stand once"


def test_shares_mark_the_uniform_and_the_best():
    grid = [(0.5, 0.5, 0.5, 200), (0.6, 0.3, 0.5, 260), (0.4, 0.7, 0.5, 150)]
    lines = [
        line("lmh+lmh", 0, first(right), 0.5, plan={"assignment": "modality", "language": L, "vision": V, "cross": X})
        for L, V, X, right in grid
    ]
    axis, _ = axes_of(runs_table(lines)[0], kind="shares")  # the other is the scale of colours
    marks = {(line.get_label(), float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in axis.get_lines()}
    assert ("uniform", 50.0, 0.0) in marks and ("best", 60.0, 0.0) in marks
    assert "best: language 60, vision 30, cross 50" in axis.get_xlabel()


def test_a_full_model_is_in_every_panel_of_modules(runs: pd.DataFrame):
    alone = {"assignment": "modality", "language": 0.5, "vision": 0.0, "cross": 0.0}
    other = {"assignment": "modality", "language": 0.0, "vision": 0.5, "cross": 0.0}
    lines = [
        line("bce", 0, first(1)),
        line("bce+lmh", 0, first(2), 0.2, plan=alone),
        line("bce+lmh", 0, first(3), 0.1, plan=other),
    ]
    language, vision = axes_of(runs_table(lines)[0], panels="module")
    assert language.get_title() == "module language, out of distribution" and len(language.get_lines()) == 2
    assert len(vision.get_lines()) == 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "pie"}, "figure: pie: there are gap, kind, on, panels; kinds: curves, bars"),
        ({"panel": "stage1"}, "figure: panel: there are"),
        ({"panels": "objective"}, "figure: panels: objective: no column"),
        ({"gap": "lmh"}, "figure: gap: expected a mapping, not 'lmh'"),
        ({"gap": {"better": {"stage2": "lmh"}}}, "figure: gap: expected better, worse"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused(runs: pd.DataFrame, spec: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        figure("x", "t", runs, spec)


def test_published_points_stand_beside_runs_on_the_papers_data_alone():
    def front(data: str) -> int:
        lines = [line("bce", 0, first(100), data=data), line("bce+lmh", 0, first(200), 0.5, data=data)]
        drawn = [one for one in usual_figures(runs_table(lines)[0]) if one.name.startswith("size")]
        return len(drawn[0].drawing.axes[0].texts)

    assert front("vqacp2") == 25 and front("scenes") == 0


def test_sizes_are_compared_over_all_backbones():
    lines = [line("bce", 0, first(100), backbone=backbone) for backbone in ("lxmert", "updn")]
    runs = runs_table(lines)[0]
    (drawn,) = study_figures(runs, {"kind": "front"}, "fig1")
    assert drawn.name == "fig1_scenes" and not any(
        one.name.startswith("size") for one in usual_figures(runs, [{"kind": "front"}])
    )
    assert {str(one.get_label()) for one in drawn.drawing.axes[0].containers} == {"full lxmert(bce)", "full updn(bce)"}


def test_every_test_set_and_group_has_a_panel():
    names = ["QT", "KW", "KWP", "QT+KW", "KO", "KOP", "QT+KO", "KW+KO", "QT+KW+KO"]
    one = line("bce", 0, first(100), data="scenes-vs")
    one["results"]["splits"] = {name: {"all": 10.0 + i, "distribution": "ood"} for i, name in enumerate(names)}
    one["results"]["means"] = {"ood_mean": 14.0, "ood_lang": 11.5, "ood_vis": 14.5, "ood_crsm": 17.0}
    drawn = {one.name: one.drawing for one in usual_figures(runs_table([one])[0])}
    shown = [axis.get_title() for axis in drawn["test_sets_scenes-vs_lxmert"].axes if axis.get_visible()]
    assert shown == ["ood_lang", "ood_vis", "ood_crsm", *names]


def test_curves_that_cannot_be_told_apart_are_not_drawn():
    """A grid of shares has hundreds; each would be a curve of one point."""
    lines = [
        line("lmh+lmh", 0, first(number), 0.5, plan={"assignment": "modality", "language": number / 100, "vision": 0.2})
        for number in range(61)
    ]
    runs = runs_table(lines)[0]
    assert [one.name for one in study_figures(runs, {"kind": "shares"}, "fig8")] == ["fig8_scenes_lxmert"]
    assert usual_figures(runs) == []
