"""The study of backbones on made-up results, and the demonstration's jobs."""

import json
import re
from functools import partial
from pathlib import Path

import pytest

from cdvqa.cli import main
from cdvqa.cli.configs import find_config
from cdvqa.files import write_json
from cdvqa.studies import backbones
from cdvqa.studies.backbones import RUNS, blind_accuracy, ceiling, runs_of, section
from cdvqa.studies.demo import OBJECTIVES, full_models, three_stages
from cdvqa.studies.jobs import Job, overlay_of, pipeline_job


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(backbones, "LOGS", tmp_path)
    return tmp_path


def finish(job: Job, in_distribution: float, out: float) -> None:
    record = {"stage": 1, "pipeline": ["bce"], "sparsity": None, "finished": "now", "identity": "", "settings": {}}
    write_json(job.run.record, record | {"parameters": {"full": 4, "kept": 3}})
    splits = {"id": {"all": in_distribution, "distribution": "id"}, "test": {"all": out, "distribution": "ood"}}
    write_json(job.run.results, {"selection": "dev", "splits": splits, "means": {}})


def test_a_backbone_that_learns_and_is_helped_by_one_objective():
    table = runs_of("visualbert", 2)
    results = {"full bce": (80, 30), "full lmh": (60, 35), "full lpf": (70, 32)}
    for name, jobs in table.items():
        for seed, job in enumerate(jobs):
            in_distribution, out = results.get(name, (50, 20))
            finish(job, in_distribution + seed, out + 2 * seed)
    finish(ceiling("visualbert"), 89, 89)
    text = "\n".join(section("visualbert", table, ceiling("visualbert")))
    assert "Ceiling 89.00; full bce reaches 90.4% of it: learned." in text  # 80.5 of 89
    assert "| full lmh | 75.0 % | 2 | 60.50 ± 0.71 | 36.00 ± 1.41 |" in re.sub(" +", " ", text)
    assert "LMH raises accuracy out of distribution over BCE by 5.00 ± 0.00 (asked ≥ 3): holds" in text
    assert "LPF raises accuracy out of distribution over BCE by 2.00 ± 0.00 (asked ≥ 3): **does not hold here**" in text
    assert text.count("raises") == 2, "subnetworks are in the table only"


def test_a_backbone_that_does_not_learn_is_said_not_to():
    table = runs_of("mplug", 1)
    for jobs in table.values():
        finish(jobs[0], 80, 40)
    finish(ceiling("mplug"), 89, 89)
    text = "\n".join(section("mplug", table, ceiling("mplug")))
    assert "full ce reaches 89.9% of it: **not learned**." in text
    assert "LPF raises accuracy out of distribution over CE by 0.00 (asked ≥ 3): **does not hold here**" in text


def test_the_ceiling_is_of_the_plain_model_on_the_balanced_world(logs: Path):
    job = ceiling("mplug")
    assert job.run.folder.match(f"{logs}/scenes-balanced/mplug/stage1_ce-*/seed0")
    assert {"stage1_ce.yaml", "scenes_mplug.yaml", "--data.root=data/scenes-balanced"} < set(job.args)


@pytest.mark.parametrize("split", ["id", "test"])
def test_blind_accuracy_is_that_of_each_types_usual_answer(scenes: Path, split: str):
    train, asked = (json.loads((scenes / f"vqacp_v2_{part}_annotations.json").read_text()) for part in ("train", split))
    scores = []
    for question in asked:
        same = [a["multiple_choice_answer"] for a in train if a["question_type"] == question["question_type"]]
        usual = max(dict.fromkeys(same), key=same.count)
        scores.append(min(sum(answer["answer"] == usual for answer in question["answers"]) / 3, 1))
    assert blind_accuracy(scenes, split) == pytest.approx(100 * sum(scores) / len(scores))


@pytest.mark.parametrize("backbone", RUNS)
def test_every_parent_is_among_the_runs(backbone: str):
    jobs = [job for row in runs_of(backbone, 1).values() for job in row]
    assert {job.after for job in jobs} - {None} <= {job.run for job in jobs}
    assert all(job.run.folder.parts[-3] == backbone for job in jobs)


@pytest.mark.parametrize("backbone", OBJECTIVES)
def test_the_demonstration_has_all_stages_and_their_parents(backbone: str):
    job = partial(pipeline_job, Path("logs"), seed=0, overlay=overlay_of(backbone))
    jobs = three_stages(job, *OBJECTIVES[backbone])
    assert {job.after for job in jobs} - {None} <= {job.run for job in jobs}
    assert {job.run.folder.parent.name[:6] for job in jobs} == {"stage1", "stage2", "stage3"}


def test_the_demonstration_of_updn_has_full_models_alone():
    jobs = full_models(partial(pipeline_job, Path("logs"), seed=0, overlay=overlay_of("updn")))
    assert {job.run.folder.parent.name[:6] for job in jobs} == {"stage1"}


@pytest.mark.parametrize("backbone", RUNS)
def test_overlays_name_shipped_configs_that_fit_together(backbone: str, capsys: pytest.CaptureFixture[str]):
    names = [name for name in overlay_of(backbone) if name != "--config"]
    assert all(Path(find_config(name)).is_file() for name in names)
    plain = "ce" if backbone == "mplug" else "bce"
    assert main(["fit", "--config", f"stage1_{plain}.yaml", *overlay_of(backbone), "--print_config"]) == 0
    printed = capsys.readouterr().out.lower()
    assert f"class_path: cdvqa.backbones.{backbone}" in printed and "root: data/scenes\n" in printed
