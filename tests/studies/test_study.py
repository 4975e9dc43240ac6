"""What a study's file means, and the runs it becomes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdvqa.cli import main
from cdvqa.errors import InputError
from cdvqa.studies.sweep.plan import jobs_of, with_parents
from cdvqa.studies.sweep.study import points_of, read_study
from tests.conftest import run_names

GRID = {"data": "vqacp2", "backbone": "lxmert", "seeds": 2}
MASK = {"pipeline": "bce+bce", "method": "mask", "sparsity": 0.5}
BCE = {"pipeline": "bce"}


def points(**grid: Any) -> list[Any]:
    return list(points_of(GRID | grid))


def test_lists_are_crossed_also_inside_shares_and_settings():
    found = points(
        method="mask",
        pipeline=["bce+lmh", "lmh+lmh"],
        shares={"language": [0.1, 0.5], "vision": 0, "cross": 0},
        settings={"model.lr": [1e-4, 2e-4, 3e-4]},
        stage2={"trainer.max_epochs": 3},
    )
    assert len(found) == 12 and len({(p.pipeline, *p.sparsity.items(), *p.settings[2].items()) for p in found}) == 12
    assert {p.sparsity["language"] for p in found} == {0.1, 0.5} and found[0].sparsity["assignment"] == "modality"
    assert found[0].settings[2] == {"model.lr": 1e-4, "trainer.max_epochs": 3}
    assert found[0].settings[1] == {"model.lr": 1e-4} and found[0].seeds == (0, 1)


def test_alternatives_of_several_settings_are_a_list_of_mappings():
    shares = [{"language": 0.5, "vision": 0.1, "cross": 0.5}, {"language": 0.7, "vision": 0.3, "cross": 0.7}]
    assert [p.sparsity["vision"] for p in points(method="mask", pipeline="lmh+lmh", shares=shares)] == [0.1, 0.3]


def test_a_full_size_study_runs_on_the_embedded_world_too():
    micro = next(points_of(GRID | {"pipeline": "bce", "data": "vqavs", "backbone": "visualbert"}, "micro"))
    assert micro.configs == ("scenes-vs.yaml", "micro-vs.yaml", "scenes_visualbert.yaml")
    assert next(points_of(GRID | {"pipeline": "bce"}, "micro")).configs == ("scenes.yaml", "micro.yaml")
    assert points(pipeline="bce")[0].configs == ("vqacp2.yaml", "lxmert.yaml")


def test_a_chain_has_the_folders_that_its_commands_make(cdvqa: Callable[..., int], study: Callable[..., Path]):
    """One-shot pruning of BCE, and what is fine-tuned further from it, share the stage-1 run."""
    plan = read_study(str(study([{"method": "omp", "pipeline": ["bce", "bce+lmh"], "sparsity": 0.5}], seeds=[3])))
    jobs = jobs_of(plan.points, Path("logs"))
    everything = with_parents(jobs)
    assert [job.run.folder.parent.name.split("_")[0] for job in everything] == ["stage1", "stage2", "stage3"]
    assert everything[2].parent == everything[1] == jobs[0] and everything[0].parent is None
    assert main(["fit", *everything[0].args]) == 0 and main(["fit", *everything[1].args]) == 0
    assert {job.run.folder.name for job in everything} == {"seed3"}
    assert (
        run_names() == {"stage1_bce", "stage2_bce_omp_uniform_s50"}
        and jobs[0].run.read()["identity"] == jobs[0].identity
    )


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"pipeline": "bce", "colour": 1}, "unknown: colour; there are assignment, backbone"),
        ({"pipeline": "bce", "method": "half"}, "method half: there are full, mask, omp"),
        ({"pipeline": "bce", "method": "mask"}, "pipeline bce: method mask takes 2 or 3 objectives"),
        ({"pipeline": "bce+lmh"}, "pipeline bce+lmh: method full takes 1 objectives"),
        ({"pipeline": "bce", "sparsity": 0.5}, "overall: a full model has no sparsity"),
        ({"method": "full"}, "pipeline: expected a name"),
        ({"pipeline": "bce", "seeds": "all"}, "seeds: expected a number of seeds or a list of them"),
        ({"pipeline": "bce", "settings": {"model.speed": 3}}, "model.speed"),
        ({"pipeline": "nothing"}, "nothing"),
        ({"pipeline": "introd"}, "--model.teacher: give it if, and only if, the objective needs a teacher"),
        ({"pipeline": "introd", "teacher": "lmh"}, "teacher: expected {pipeline: OBJECTIVE}"),
        ({"pipeline": "introd", "teacher": {"pipeline": "lmh", "seed": 1}}, "teacher: unknown: seed"),
        ({"pipeline": "lmh", "teacher": {"pipeline": "lmh"}}, "teacher: no objective of lmh needs one; leave it out"),
        (
            {"pipeline": "bce+bce", "method": "mask", "sparsity": 0.9, "assignment": "modality",
             "shares": {"language": 0.1, "vision": 0.1}},
            "bce+bce, mask",
        ),
        ({"pipeline": ["bce", "bce"]}, "the same run as bce, full; leave one out"),
        ({"pipeline": []}, "grid 1 of runs: no run: a list is empty, or no shares can have the sparsity"),
        ({"pipeline": "bce", "method": {"a": 1}}, "method: expected a name"),
        ({"pipeline": "bce", "stage1": "fast"}, "stage1: expected a mapping of options to values, not 'fast'"),
        ({"pipeline": "bce", "configs": "tiny.yaml"}, "configs: expected a list of names, not 'tiny.yaml'"),
        ({"pipeline": "bce", "stage3": {"model.lr": 1}}, "grid 1 of runs: stage3: no run here has such a stage"),
        (MASK | {"shares": "x"}, "shares: expected a mapping, not 'x'"),
        (MASK | {"shares": {"from": 0.1, "to": 0.9, "step": 0}}, "shares: expected 0 <= from <= to <= 1 and a step of"),
        (MASK | {"shares": {"from": "a", "to": 0.9, "step": 0.2}}, "shares: expected 0 <= from <= to <= 1 and a step"),
        (MASK | {"sparsity": "x", "shares": {"from": 0.1, "to": 0.9, "step": 0.2}}, "beside a sparsity"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(
    grid: dict[str, Any],
    message: str,
    cdvqa: Callable[..., int],
    study: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
):
    assert main(["sweep", str(study([grid])), "--dry_run"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0] and not Path("logs").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (None, "runs: expected a list of grids"),
        ({"settings": "fast"}, "settings: expected a mapping of options to values, not 'fast'"),
        ({"stage2": {"model.lr": 1}}, "study.yaml: stage2: no run here has such a stage; leave it out"),
        ({"cost": {"gpu_hours": 5}}, "cost: expected {runs: NUMBER, gpu_hours: NUMBER}, not {'gpu_hours': 5}"),
        ({"cost": "many"}, "cost: expected a mapping, not 'many'"),
        ({"about": ["a"]}, "about: expected text, not ['a']"),
        ({"claims": {"text": "t"}}, "claims: expected a list, not {'text': 't'}"),
        ({"claims": ["t"]}, "claim: expected a mapping, not 't'"),
        ({"claims": [{"text": "t", "worse": BCE}]}, "claim 't': missing or unknown: better"),
        ({"claims": [{"text": "t", "worse": BCE, "better": "lmh"}]}, "better: expected a mapping, not 'lmh'"),
        ({"claims": [{"text": "t", "worse": BCE, "better": BCE, "by": "a"}]}, "by: expected a number of points"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_refused_by_sweep_before_anything_runs(
    changed: dict[str, Any] | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    """Defects: tracebacks, or only `report` said it, after the training."""
    monkeypatch.chdir(tmp_path)
    content = "" if changed is None else yaml.safe_dump(GRID | {"runs": [BCE]} | changed)
    Path("study.yaml").write_text(content)
    assert main(["sweep", "study.yaml", "--dry_run"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_a_missing_data_set_is_refused_before_the_first_run(
    cdvqa: Callable[..., int], study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
):
    file = study([{"pipeline": "bce"}, {"pipeline": "lmh", "settings": {"data.root": "nowhere"}}])
    assert main(["sweep", str(file)]) == 2
    assert "nowhere: no such folder, of data set scenes; " in capsys.readouterr().err and not Path("logs").exists()


@pytest.mark.parametrize("file", ["features.h5", "vqacp_v2_test_questions.json", "vqacp_v2_train_annotations.json"])
def test_a_missing_file_of_a_data_set_is_refused_before_the_first_run(
    file: str, cdvqa: Callable[..., int], study: Callable[..., Path], scenes: Path, capsys: pytest.CaptureFixture[str]
):
    """Defect: the other data set's run was trained first, and the broken one failed twice."""
    links = Path("other")
    links.mkdir()
    for path in scenes.iterdir():
        if path.name != file:
            (links / path.name).symlink_to(path)
    runs = [{"pipeline": "bce"}, {"pipeline": "lmh", "settings": {"data.root": "other", "data.name": "other"}}]
    assert main(["sweep", str(study(runs))]) == 2
    assert f"cdvqa sweep: other/{file}: no such file" in capsys.readouterr().err and not Path("logs").exists()


def test_a_study_is_a_mapping_with_runs(tmp_path: Path):
    for content in ({"data": "scenes"}, {"runs": {}}, {"runs": ["bce"]}):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(InputError, match="runs: expected a list of grids"):
            read_study(str(tmp_path / "study.yaml"))


@pytest.mark.parametrize("command", [["sweep", "demo", "--dry_run"], ["report", "--study", "demo"]])
def test_no_identity_is_made_up_for_a_world_that_is_not_there(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Defect: the small model's path passed for a name on a hub, so that no run or record had the identity."""
    monkeypatch.chdir(tmp_path)
    assert main(command) == 2
    assert "data/scenes/lxmert: no such folder; `cdvqa prepare scenes" in capsys.readouterr().err
