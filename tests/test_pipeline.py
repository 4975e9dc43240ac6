"""The three stages, in-process through the command line, on small worlds."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cdvqa.cli import main
from cdvqa.sparsity import Subnetwork
from cdvqa.worlds.easyvqa import make_easyvqa
from tests.conftest import last_error, overlay, run_names, the_run

Command = Callable[..., int]
RUNS = Path("logs/scenes/lxmert")


def results(run: str, seed: int = 0, runs: Path = RUNS) -> dict:
    return json.loads((the_run(run, seed, runs) / "results.json").read_text())


def network(run: str, runs: Path = RUNS) -> Subnetwork:
    folder = the_run(run, runs=runs)
    name = "model" if run.startswith("stage1") else "subnetwork"
    return Subnetwork.load(folder / f"{name}.safetensors")


@pytest.mark.parametrize("objective", ["bce", "lmh", "rubi", "lpf"])
def test_every_objective_goes_through_all_stages(cdvqa: Command, objective: str):
    stage1, stage2 = f"stage1_{objective}", f"stage2_{objective}+{objective}_mask_uniform_s50"
    stage3 = f"stage3_{objective}+{objective}+{objective}_mask_uniform_s50"
    assert cdvqa("fit", f"stage1_{objective}.yaml") == 0
    assert cdvqa("fit", f"stage2_{objective}.yaml", "tiny_masks.yaml") == 0
    assert cdvqa("fit", f"stage3_{objective}.yaml") == 0
    assert cdvqa("test", f"stage3_{objective}.yaml") == 0
    assert cdvqa("predict", f"stage3_{objective}.yaml") == 0

    assert run_names() == {stage1, stage2, stage3}
    for run in (stage1, stage2, stage3):
        record = json.loads((the_run(run) / "run.json").read_text())
        assert record["finished"] and set(record["pipeline"]) == {objective}
    report = results(stage3)
    assert report["preset"] == "paper" and report["selection"] == "dev"
    assert {name: split["distribution"] for name, split in report["splits"].items()} == {"id": "id", "test": "ood"}
    assert report["means"] == {}
    assert report["splits"]["id"]["n"]["all"] == 90 and report["splits"]["test"]["n"]["all"] == 70
    assert sum(report["splits"]["id"]["n"][kind] for kind in ("yes/no", "number", "other")) == 90
    predictions = json.loads((the_run(stage3) / "predictions" / "test.json").read_text())
    assert len({p["question_id"] for p in predictions}) == 70 and set(predictions[0]) == {"question_id", "answer"}


@pytest.mark.parametrize("assignment", ["uniform", "modality", "global"])
def test_every_assignment_goes_through_stages_2_and_3(cdvqa: Command, assignment: str):
    conf = f"{assignment}.yaml"
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    assert cdvqa("fit", "stage2_lmh.yaml", conf, "tiny_masks.yaml", "--model.parent_objective=bce") == 0
    assert cdvqa("fit", "stage3_bce.yaml", conf, "--model.parent_objective=bce+lmh") == 0
    pipeline = [conf, "--model.parent_objective=bce+lmh"]
    assert cdvqa("test", "stage3_bce.yaml", *pipeline) == 0
    assert cdvqa("predict", "stage3_bce.yaml", *pipeline) == 0
    assert results(f"stage3_bce+lmh+bce_mask_{assignment}_s50")["splits"]["test"]["n"]["all"] == 70
    pair, triple = f"stage2_bce+lmh_mask_{assignment}_s50", f"stage3_bce+lmh+bce_mask_{assignment}_s50"

    dense, masked, tuned = network("stage1_bce"), network(pair), network(triple)
    # Stage 2 leaves every weight it keeps as stage 1 left it; stage 3 moves kept weights and no zero.
    for name, mask in masked.masks.items():
        torch.testing.assert_close(masked.state[name], dense.state[name] * mask, rtol=0, atol=0)
        assert torch.equal(tuned.masks[name], mask) and not tuned.state[name][~mask].any()
    moved = [name for name, mask in masked.masks.items() if not torch.equal(tuned.state[name], masked.state[name])]
    assert len(moved) == len(masked.masks) - 6  # all but the dead branch
    # Sparsity is exact: to one element per matrix, or to one in all under global assignment.
    zeros = {name: int((~mask).sum()) for name, mask in masked.masks.items()}
    if assignment == "global":
        total = sum(mask.numel() for mask in masked.masks.values())
        assert sum(zeros.values()) == int(0.5 * total + 0.5)
        assert len({round(n / masked.masks[name].numel(), 2) for name, n in zeros.items()}) > 3
    for name, n in zeros.items():
        if assignment == "uniform":
            assert n == int(0.5 * masked.masks[name].numel() + 0.5), name
        if assignment == "modality" and "r_layers" in name:
            assert n == int(0.2 * masked.masks[name].numel() + 0.5), name


def test_training_on_all_questions_keeps_the_last_state(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    """data.dev_share 0 is the paper's full training set: no validation, and nothing to validate on afterwards."""
    flags = ["--data.dev_share=0", "--model.selection=last", "--trainer.max_epochs=1"]
    assert cdvqa("fit", "stage1_bce.yaml", *flags) == 0
    (folder,) = Path("logs/scenes/lxmert").glob("stage1_bce*/seed0")
    assert (
        json.loads((folder / "run.json").read_text())["departures"].items()
        >= {"selection": "last", "dev_share": 0}.items()
    )
    assert "val/accuracy/all" not in (folder / "metrics.csv").read_text()
    assert cdvqa("test", "stage1_bce.yaml", *flags) == 0
    assert cdvqa("validate", "stage1_bce.yaml", *flags) == 2
    assert "--data.dev_share is 0" in last_error(capsys)
    assert cdvqa("fit", "stage1_bce.yaml", "--data.dev_share=0", "--overwrite") == 2
    assert "take --model.selection last" in last_error(capsys)


def test_one_shot_pruning_is_a_stage_2_and_stage_3_starts_from_it(cdvqa: Command):
    assert cdvqa("fit", "stage1_lmh.yaml") == 0
    assert cdvqa("prune", "--model.parent_objective=lmh", "--model.sparsity.overall=0.7") == 0
    pruned, dense = network("stage2_lmh_omp_uniform_s70"), network("stage1_lmh")
    for name, mask in pruned.masks.items():
        weight = dense.state[name].abs()
        assert int((~mask).sum()) == int(0.7 * mask.numel() + 0.5)
        assert weight[~mask].max() <= weight[mask].min()
    assert (
        cdvqa("prune", "--model.parent_objective=lmh", "--model.sparsity.overall=0.29", "--model.tie_break=strict") == 0
    )
    masks = network("stage2_lmh_omp_uniform_s29").masks.values()
    assert [int((~mask).sum()) for mask in masks] == [int(0.29 * mask.numel()) for mask in masks]
    assert any(int(0.29 * mask.numel()) != int(0.29 * mask.numel() + 0.5) for mask in masks), "exact rounds"
    omp = ["--model.sparsity.method=omp", "--model.sparsity.overall=0.7", "--model.parent_objective=lmh"]
    assert cdvqa("fit", "stage3_bce.yaml", *omp) == 0
    assert (the_run("stage3_lmh+bce_omp_uniform_s70") / "subnetwork.safetensors").is_file()


def test_stage_2_uses_its_own_objective_and_rate(cdvqa: Command):
    """A stage that starts from a checkpoint must not inherit the checkpoint's settings."""
    assert cdvqa("fit", "stage1_bce.yaml", "--model.lr=0.003") == 0
    assert cdvqa("fit", "stage2_lpf.yaml", "--model.parent_objective=bce", "--model.lr=0.5") == 0
    run = the_run("stage2_bce+lpf_mask_uniform_s50")
    config = (run / "config.yaml").read_text()
    assert "objective: lpf" in config and "lr: 0.5" in config
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert "hyper_parameters" not in state  # nothing that could override the next stage's config
    assert state["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 0.5


def test_init_from_wins_over_the_pipeline(cdvqa: Command):
    assert cdvqa("fit", "stage1_bce.yaml", "--seed_everything=5") == 0
    source = the_run("stage1_bce", 5)
    assert cdvqa("fit", "stage2_lmh.yaml", f"--model.init_from={source}", "--model.parent_objective=bce") == 0
    record = json.loads((the_run("stage2_bce+lmh_mask_uniform_s50") / "run.json").read_text())
    assert record["parent"]["network"] == str(source / "model.safetensors") and record["parent"]["seed"] == 5


def test_the_authors_preset_runs_and_says_so(cdvqa: Command):
    flags = ["--model.preset=authors", "--model.warmup=2", "--model.global_batch=64"]
    assert cdvqa("fit", "stage1_rubi.yaml", *flags) == 0
    assert cdvqa("fit", "stage2_lmh.yaml", "tiny_masks.yaml", *flags, "--model.parent_objective=rubi") == 0
    assert cdvqa("test", "stage2_lmh.yaml", "tiny_masks.yaml", *flags, "--model.parent_objective=rubi") == 0
    report = results("stage2_rubi+lmh_mask_uniform_s50")
    assert report["preset"] == "authors" and report["selection"] == "selected on test"
    assert report["departures"] == {"warmup": 2, "global_batch": 64}


def test_the_vqa_vs_layout_gets_its_nine_sets_and_their_means(cdvqa: Command, tmp_path: Path):
    from cdvqa.worlds.scenes_vs import ShortcutConstants, write_scenes_vs

    root = tmp_path / "scenes-vs"
    write_scenes_vs(root, 0, ShortcutConstants(train_questions=400, val_questions=50, test_questions=300))
    world = overlay(root, "vqavs", ("Training/Training-Ques.json", "Training/Training-Ans.json"))
    assert cdvqa("fit", "stage1_lmh.yaml", world=world) == 0
    assert cdvqa("test", "stage1_lmh.yaml", world=world) == 0
    report = results("stage1_lmh", runs=Path("logs/scenes-vs/lxmert"))
    nine = {"QT", "KW", "KWP", "QT+KW", "KO", "KOP", "QT+KO", "KW+KO", "QT+KW+KO"}
    assert set(report["splits"]) == {"iid", *nine}
    assert {name for name, split in report["splits"].items() if split["distribution"] == "ood"} == nine
    for name in nine:
        questions = json.loads((root / f"OOD-Test/{name}/OOD-Test-{name}-Ques.json").read_text())
        assert report["splits"][name]["n"]["all"] == len(questions)
    mean = sum(round(report["splits"][name]["all"], 2) for name in nine) / 9
    assert report["means"]["ood_mean"] == pytest.approx(mean, abs=1e-9)
    assert set(report["means"]) == {"ood_mean", "ood_lang", "ood_vis", "ood_crsm"}
    # OOD-mean is what the table of runs shows.
    assert main(["report"]) == 0


def test_cached_targets_replace_annotations(
    cdvqa: Command, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cdvqa("fit", "stage1_bce.yaml", "--model.selection=last") == 0
    official = network("stage1_bce")
    root = Path(shutil.copytree(scenes, tmp_path / "cached", ignore=shutil.ignore_patterns("images", ".cdvqa")))
    answers = official.metadata["answers"]
    annotations = json.loads((root / "vqacp_v2_train_annotations.json").read_text())
    (root / "vqacp_v2_train_annotations.json").unlink()
    targets = []
    for annotation in annotations:
        given = [answer["answer"] for answer in annotation["answers"]]
        counts = {answers.index(answer): given.count(answer) for answer in dict.fromkeys(given) if answer in answers}
        scores = [min(count / 3, 1.0) for count in counts.values()]
        targets.append({"question_id": annotation["question_id"], "labels": list(counts), "scores": scores})
    (root / "cache").mkdir()
    (root / "cache" / "train_target.pkl").write_bytes(pickle.dumps(targets))
    (root / "cache" / "trainval_ans2label.pkl").write_bytes(pickle.dumps({a: i for i, a in enumerate(answers)}))

    flags = [f"--data.root={root}", "--overwrite"]
    for objective in ("lmh", "rubi", "lpf"):
        assert cdvqa("fit", f"stage1_{objective}.yaml", *flags) == 2
        error = last_error(capsys)
        assert f"the cached targets of train name no question types, which --model.objective {objective} needs" in error
        assert f"stage1_{objective}" not in run_names()
    assert cdvqa("fit", "stage1_bce.yaml", *flags, "--model.selection=last") == 0
    assert network("stage1_bce").metadata["answers"] == answers
    assert cdvqa("predict", "stage1_bce.yaml", *flags, "--model.selection=last") == 0
    assert len(json.loads((the_run("stage1_bce") / "predictions" / "test.json").read_text())) == 70


@pytest.fixture(scope="module")
def easyvqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world made of the package easy-vqa."""
    pytest.importorskip("easy_vqa", reason="the optional extra `easyvqa` is not installed")
    folder = tmp_path_factory.mktemp("worlds") / "easyvqa"
    make_easyvqa(folder, 0)
    return folder


@pytest.mark.parametrize(("objective", "assignment"), [("bce", "uniform"), ("lmh", "modality"), ("rubi", "global")])
def test_easyvqa_goes_through_the_stages(cdvqa: Command, easyvqa: Path, objective: str, assignment: str):
    world = [*overlay(easyvqa), "--trainer.limit_train_batches=3", "--trainer.max_epochs=1"]
    conf, runs = f"{assignment}.yaml", Path("logs/easyvqa/lxmert")
    assert cdvqa("fit", f"stage1_{objective}.yaml", world=world) == 0
    assert cdvqa("fit", f"stage2_{objective}.yaml", conf, world=world) == 0
    for command in ("fit", "test", "predict"):
        assert cdvqa(command, f"stage3_{objective}.yaml", conf, world=world) == 0
    name = f"stage3_{objective}+{objective}+{objective}_mask_{assignment}_s50"
    report = results(name, runs=runs)
    assert set(report["splits"]) == {"id", "test"}
    assert set(report["splits"]["test"]["n"]) <= {"all", "yes/no", "other"}
    predictions = json.loads((the_run(name, runs=runs) / "predictions" / "test.json").read_text())
    assert len(predictions) == report["splits"]["test"]["n"]["all"]
