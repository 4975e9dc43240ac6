"""Settings with which a run would train wrongly, or fail deep inside a library, are refused in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cdvqa.cli import main

Command = Callable[..., int]
BOMB = "".join(f"{name}: &{name} [{','.join([old] * 9)}]\n" for old, name in zip(["x", "*a", "*b"], "abc", strict=True))
BOMB += "".join(
    f"{name}: &{name} [{','.join([f'*{old}'] * 9)}]\n" for old, name in zip("cdefgh", "defghi", strict=True)
)


def refusal(cdvqa: Command, capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The only line that `fit` prints; nothing is written."""
    assert cdvqa("fit", "stage1_bce.yaml", *flags) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert not Path("logs").exists()
    return said[-1].removeprefix("cdvqa fit: ")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--model.lr=0", "--model.lr 0.0: expected a number above 0"),
        ("--model.weight_decay=-1", "--model.weight_decay: expected a number >= 0, got -1"),
        ("--data.eval_batch_size=0", "--data.eval_batch_size 0: expected 1 or more"),
        ("--data.num_workers=many", "--data.num_workers: expected a whole number, got many"),
        ("--data.num_workers=-1", "--data.num_workers -1: expected 0 or more"),
        ("--seed_everything=-1", "--seed_everything -1: expected from 0 to 4294967295"),
        ("--trainer.max_epochs=-1", "--trainer.max_epochs -1: expected 0 or more"),
        ("--trainer.accumulate_grad_batches=0", "--trainer.accumulate_grad_batches 0: expected 1 or more"),
        ("--trainer.gradient_clip_val=-0.5", "--trainer.gradient_clip_val -0.5: expected 0 (no clipping) or more"),
        ("--trainer.gradient_clip_algorithm=value", "--trainer.gradient_clip_algorithm value: expected norm"),
        (
            "--trainer.limit_train_batches=0.0",
            "--trainer.limit_train_batches 0.0: expected 1 or more, or a share above",
        ),
        ("--trainer.val_check_interval=99", "--trainer.val_check_interval 99: `val_check_interval` (99) must be less"),
        ("--trainer.limit_train_batches=0.01", "--trainer.limit_train_batches 0.01: You requested to check 0.01"),
        ("--trainer.precision=17", "--trainer.precision: expected one of"),
        ("--trainer.devices=0", "--trainer.devices 0: "),
        ("--trainer.logger=NoLogger", "--trainer.logger: no class is called 'NoLogger'"),
        ("--trainer.logger=CometLogger", "cannot make pytorch_lightning.loggers.CometLogger; Requirement 'comet-ml"),
        ("--trainer.logger=WandbLogger", "Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install -U"),
        ("--trainer.logger=MLFlowLogger", "Requirement 'mlflow>=1.0.0' not met. HINT: Try running `pip install -U"),
        ("--model.backbone.config.visual_feat_dim=64", "features.h5: features are 128 wide, the backbone takes 64"),
        ("--model.backbone.config.vocab_size=9", "word pieces, the backbone embeds 9; give the backbone's own"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_the_option(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], flag: str, said: str
):
    """Each of these trained, or ended in a traceback, or named no option."""
    line = refusal(cdvqa, capsys, flag)
    assert line.startswith(said) if said.startswith("--") else said in line


def test_prune_refuses_what_is_trained(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    """It trained stage 1."""
    for config, made in (("stage1_bce.yaml", "is stage 1"), ("stage2_bce.yaml", "trains masks")):
        assert cdvqa("prune", config) == 2
        said = f"cdvqa prune: this configuration {made}, and prune is one-shot pruning, a stage 2; leave its config"
        assert capsys.readouterr().err.startswith(said)
    assert not Path("logs").exists()


@pytest.mark.parametrize("command", ["info", "check"])
def test_a_logger_whose_package_is_missing_is_one_line(command: str, capsys: pytest.CaptureFixture[str]):
    """Only fit and test said it in one."""
    assert main([command, "--config", "stage1_bce.yaml", "--trainer.logger", "CometLogger"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cdvqa {command}: cannot make pytorch_lightning.loggers.CometLogger; Requirement")
    assert error.count("\n") == 1


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="there is a GPU here")
def test_a_gpu_that_is_not_there(cdvqa: Command, capsys: pytest.CaptureFixture[str]):
    assert refusal(cdvqa, capsys, "--trainer.accelerator=gpu").startswith("--trainer.accelerator gpu: ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"model:\n  lr: [1, 2\n", "line 3, column 1: broken YAML: did not find expected ',' or ']'"),
        (b"- a\n- b\n", "expected a mapping of options to values"),
        (b"\xff\xfe\x00\x01", "no text in UTF-8"),
        (b"a: " + b"[" * 5000 + b"]" * 5000, "too deep, or its aliases stand for too much"),
        (BOMB.encode(), "too deep, or its aliases stand for too much"),
        (b"a: &a [*a]\n", "too deep, or its aliases stand for too much"),
    ],
)
def test_a_broken_config_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, said: str):
    """A bomb of 400 bytes stands for 3 billion values; it is refused without being expanded."""
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    assert main(["fit", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"cdvqa fit: {path}: ") and said in error and error.count("\n") == 1


@pytest.mark.parametrize("value", ["null", "None"])
def test_null_on_the_command_line_is_null(value: str, capsys: pytest.CaptureFixture[str]):
    """It arrived as the text `None`: a model from scratch could not be asked for."""
    flags = ["--config", "stage1_bce.yaml", "--config", "scenes.yaml", f"--model.backbone.pretrained={value}"]
    nested = "--model.backbone.config={vocab_size: 99, initializer_range: null}"
    assert main(["fit", *flags, nested, "--print_config"]) == 0
    backbone = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["backbone"]["init_args"]
    assert backbone["pretrained"] is None
    assert backbone["config"]["vocab_size"] == 99 and backbone["config"]["initializer_range"] is None
