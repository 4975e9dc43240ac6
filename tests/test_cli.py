"""The command table, the configs and the messages for wrong settings."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cdvqa.cli.commands import COMMANDS, main
from cdvqa.cli.configs import find_config, shipped, shipped_configs
from cdvqa.errors import InputError
from cdvqa.objectives import OBJECTIVES
from cdvqa.presets import Protocol
from tests.conftest import last_error, overlay, run_names, the_run

Command = Callable[..., int]
CONFIGS = shipped_configs()
STAGE_CONFIGS = [path.name for path in CONFIGS if path.parent == shipped()]


def test_help_lists_every_command_without_importing_torch(capsys: pytest.CaptureFixture[str]):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    code = "import sys; from cdvqa.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]):
    assert main([command, "--help"]) == 0
    assert "usage" in capsys.readouterr().out


def test_unknown_commands_and_configs_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["train"]) == 2
    assert capsys.readouterr().err.startswith("cdvqa train: no such command; there are fit, validate")
    assert main(["fit", "--config", "stage9.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "stage9.yaml: no such file, and no shipped config of this name" in error


def test_an_ambiguous_config_name_lists_the_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.yaml").write_text("{}")
    monkeypatch.setattr("cdvqa.cli.configs.shipped", lambda: tmp_path)
    with pytest.raises(InputError, match=r"several shipped configs have this name: .*a/same.yaml, .*b/same.yaml"):
        find_config("same.yaml")


def test_an_overlay_may_hold_blocks_of_which_that_of_the_stage_at_hand_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    overlay, alone = tmp_path / "overlay.yaml", tmp_path / "alone.yaml"
    overlay.write_text(
        "model:\n  lr: 3e-4\n  weight_decay: 0.1\nstage1:\n  trainer: {max_epochs: 7}\n"
        "stage2:\n  model: {lr: 2e-4}\n  trainer: {max_epochs: 5}\n"
    )
    alone.write_text("stage1: {trainer: {max_epochs: 6}}\n")
    for config, lr, epochs in (("stage1_bce", 3e-4, 7), ("stage2_lmh", 2e-4, 5), ("stage3_lmh", 3e-4, 20)):
        flags = ["--config", f"{config}.yaml", "--config", str(overlay), "--print_config"]
        assert main(["fit", *flags]) == 0
        printed = yaml.safe_load(capsys.readouterr().out)
        settings = printed["model"]["init_args"]
        assert (float(settings["lr"]), settings["weight_decay"], printed["trainer"]["max_epochs"]) == (lr, 0.1, epochs)
    for more, epochs in ((["--config", str(alone)], 6), (["--trainer.max_epochs=1"], 1)):
        assert main(["fit", "--config=stage1_bce.yaml", f"--config={overlay}", *more, "--print_config"]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["trainer"]["max_epochs"] == epochs
    assert main(["fit", "--config", str(overlay)]) == 2
    assert "overlay.yaml: has blocks for single stages, but no --config says which stage" in capsys.readouterr().err


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_parses(path: Path, capsys: pytest.CaptureFixture[str]):
    base = [] if path.parent == shipped() else ["--config", "stage1_bce.yaml"]
    assert main(["fit", *base, "--config", path.name, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"].startswith("cdvqa.stages.")


@pytest.mark.parametrize(
    "overlays, rates",
    [
        (("scenes",), (5e-4, 2e-4, 5e-4)),
        (("scenes-vs",), (5e-4, 2e-4, 5e-4)),
        (("scenes", "scenes_visualbert"), (5e-4, 5e-4, 5e-4)),
        (("scenes", "scenes_updn"), (2e-3,)),
        (("scenes", "scenes_smrl"), (2e-3,)),
    ],
)
def test_an_embedded_world_has_a_rate_for_each_stage_and_none_for_an_objective(
    overlays: tuple[str, ...], rates: tuple[float, ...], capsys: pytest.CaptureFixture[str]
):
    for stage, rate in enumerate(rates, 1):
        for objective in ("bce", "lmh"):
            configs = [f"--config={name}.yaml" for name in (f"stage{stage}_{objective}", *overlays)]
            assert main(["fit", *configs, "--print_config"]) == 0
            assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["lr"] == rate


@pytest.mark.parametrize("world", ["scenes", "scenes-vs"])
def test_size_micro_turns_a_config_of_an_embedded_world_into_one_of_its_micro_world(
    world: str, capsys: pytest.CaptureFixture[str]
):
    small = "micro.yaml" if world == "scenes" else "micro-vs.yaml"
    for stage in ("stage1_bce", "stage2_lmh", "stage3_lmh"):
        configs = [f"--config={name}" for name in (f"{stage}.yaml", f"{world}.yaml", small)]
        assert main(["fit", *configs, "--print_config"]) == 0
        config = yaml.safe_load(capsys.readouterr().out)
        model, data = config["model"]["init_args"], config["data"]
        assert (data["name"], data["root"], data["num_answers"]) == (f"{world}-micro", f"data/{world}-micro", 27)
        assert model["backbone"]["init_args"]["pretrained"] == f"data/{world}/lxmert"
        assert model["lr"] == (3.5e-4 if stage == "stage2_lmh" else 5e-4)
        steps = 3_800 * config["trainer"]["max_epochs"] / model["global_batch"]
        if stage == "stage2_lmh":  # as many resets as scenes.yaml has: 1,190 steps / 100
            assert steps / model["sparsity"]["reset_every"] == pytest.approx(11.9, rel=0.1)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("objective", ["bce", "lmh", "rubi", "lpf"])
def test_shipped_stages_have_the_papers_settings(stage: int, objective: str, capsys: pytest.CaptureFixture[str]):
    assert main(["fit", "--config", f"stage{stage}_{objective}.yaml", "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model = config["model"]["init_args"]
    assert model["preset"] == "paper" and model["objective"] == objective and model["lr"] == 5e-5
    assert config["trainer"]["max_epochs"] == 20 and config["trainer"]["gradient_clip_val"] == 1.0
    if stage == 2:
        assert model["sparsity"]["reset_every"] == 100 and model["sparsity"]["alpha"] == 2.0


@pytest.mark.parametrize("config", STAGE_CONFIGS)
def test_a_bare_config_name_and_flags_compose_left_to_right(config: str, capsys: pytest.CaptureFixture[str]):
    flags = ["--model.lr=0.25", "--config", "vqavs.yaml", "--data.root=elsewhere"]
    assert main(["fit", "--config", config, *flags, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["init_args"]["lr"] == 0.25
    assert printed["data"]["name"] == "vqavs" and printed["data"]["root"] == "elsewhere"
    assert printed["data"]["num_answers"] == 2486


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--model.objective=focal", f"--model.objective 'focal' is unknown; use one of {', '.join(OBJECTIVES)}"),
        ("--model.parent_objective=lph", "--model.parent_objective lph: no run in logs/scenes/lxmert has lph; did you"),
        (
            "--model.parent_objective=poe",
            "`cdvqa fit --config stage1_bce.yaml --model.objective poe` and the same over",
        ),
        ("--model.parent_objective=focal", "no finished stage-1 run of focal with seed 0 to start from"),
        ("--model.objective_options.gamma=2", "lmh does not take gamma (it takes: entropy_weight, trainable)"),
        ("--model.objectiv=lmh", "--model.objectiv: Option 'objectiv' is not accepted"),
        ("--model.backbone=Nothing", "--model.backbone: no class is called 'Nothing'"),
        ("--model.lr=fast", "--model.lr: expected a number, got fast"),
        ("--model.sparsity.initialisation=random", "use --model.sparsity.criterion (magnitude, random, first_order)"),
        ("--model.sparsity.overall=1.5", "--model.sparsity.overall is 1.5; a share of zeros lies between 0 and 1"),
        ("--model.warmup=1.5", "--model.warmup: 1.5 is neither a share from 0.0 to 1.0 nor a whole number of steps"),
        ("--data.nothing=1", "unrecognized arguments: --data.nothing=1"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], flag: str, message: str
):
    assert cdvqa("fit", "stage2_lmh.yaml", *([] if "parent" in flag else ["--model.parent_objective=bce"]), flag) == 2
    error = last_error(capsys)
    assert error.startswith("cdvqa fit: ") and message in error
    assert not Path("logs").exists()


def test_an_infeasible_budget_names_what_is_feasible(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    flags = ["--model.sparsity.overall=0.9", "--model.sparsity.language=0.1", "--model.sparsity.vision=0.1"]
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    assert cdvqa("fit", "stage2_bce.yaml", "--model.sparsity.assignment=modality", *flags) == 2
    error = capsys.readouterr().err
    assert "no cross sparsity gives 0.9 overall; the overall sparsity can lie between" in error
    assert run_names() == {"stage1_bce"}


def test_starting_without_a_parent_says_which_command_makes_one(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage2_lmh.yaml", "--model.parent_objective=lpf") == 2
    assert "make it with `cdvqa fit --config stage1_lpf.yaml` and the same overlays and seed" in capsys.readouterr().err
    assert cdvqa("fit", "stage3_lmh.yaml", "--model.parent_objective=bce+lmh") == 2
    assert "`cdvqa fit --config stage2_lmh.yaml --model.parent_objective bce`" in capsys.readouterr().err
    assert cdvqa("fit", "stage3_lmh.yaml", "--model.sparsity.method=omp", "--model.parent_objective=bce") == 2
    assert "make it with `cdvqa prune --model.parent_objective bce`" in capsys.readouterr().err
    assert cdvqa("test", "stage1_bce.yaml") == 2
    assert "there is no run of stage 1 with seed 0; `cdvqa fit` makes one" in capsys.readouterr().err


def test_info_prints_the_papers_numbers_without_weights_or_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["info", "--config", "stage2_lmh.yaml"]) == 0
    text = capsys.readouterr().out
    assert "168 matrices" in text
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    for name, matrices, weights, mega in [
        ("language", "55", "87,141,888", "83.1"),
        ("vision", "32", "36,965,376", "35.3"),
        ("cross", "80", "82,575,360", "78.8"),
        ("pooler", "1", "589,824", "0.56"),
        ("all masked", "168", "207,272,448", "197.7"),
    ]:
        assert rows[name][-3:] == [matrices, weights, mega]
    assert rows["classifier"][-2:] == ["4,676,324", "4.5"] and rows["with the classifier"][-1] == "202.1"
    assert "10 % 24.2 M, 30 % 63.8 M, 50 % 103.3 M" in text
    assert "dead: 6 matrices (7,077,888 weights)" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("configs", "expected"),
    [
        ("fig7_visualbert_lpf+lmh.yaml", ["74 matrices", "108,965,376", "50 % 58.8 M (53.1 %)"]),
        (
            "table1_mplug_ce+lpf.yaml",
            ["240 matrices", "268,959,744", "50 % 202.7 M (61.3 %)", "182M", "dead: 4 matrices", "fusion.layer.9."],
        ),
        ("table1_updn_lmh.yaml", ["no matrices to mask", "36,363,482"]),
        ("stage1_bce.yaml smrl.yaml", ["no matrices to mask", "57,821,052"]),
    ],
)
def test_info_counts_every_backbone(configs: str, expected: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["info", *(f"--config={config}" for config in configs.split())]) == 0
    text = capsys.readouterr().out
    assert [part for part in expected if part not in text] == []


def test_validate_scores_the_development_split(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    capsys.readouterr()
    assert cdvqa("validate", "stage1_bce.yaml") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│val "))
    assert row.replace("│", " ").split()[:2] == ["val", "20"]


def test_test_takes_a_runs_own_config(cdvqa: Command):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    run = the_run("stage1_bce")
    assert main(["test", "--config", str(run / "config.yaml")]) == 0
    assert (run / "results.json").is_file()


def test_a_checkpoint_can_be_evaluated(cdvqa: Command, scenes: Path):
    assert cdvqa("fit", "stage1_bce.yaml") == 0
    assert cdvqa("fit", "stage2_bce.yaml") == 0
    flags = ["--model.selection=last", *overlay(scenes)]
    run = the_run("stage2_bce+bce_mask_uniform_s50")
    checkpoint = run / "checkpoints" / "last.ckpt"
    assert main(["test", "--config", "stage2_bce.yaml", *flags, "--ckpt_path", str(checkpoint)]) == 0
    assert (run / "results.json").is_file()


def test_preset_fields_are_options_with_a_type_and_help(capsys: pytest.CaptureFixture[str]):
    """They are declared once, in `Protocol`, and reach the parser through the stage's signature."""
    fields = [field.name for field in dataclasses.fields(Protocol) if field.name != "dev_share"]  # a field of the data
    assert main(["fit", "--config", "stage1_lmh.yaml", "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert [printed[field] for field in fields] == [None] * len(fields)
    assert main(["fit", "--model.help=cdvqa.stages.MaskTrain"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for field in fields:
        assert re.search(rf"--model\.{field} \S+ [^-].* \(type: ", text), field
    assert "questions in one optimiser step over all processes" in text
    assert main(["fit", "--config", "stage1_lmh.yaml", "--model.optimizer=sgd"]) == 2
    assert "--model.optimizer" in capsys.readouterr().err
