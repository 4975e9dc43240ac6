"""The paper's other backbones through the same commands, in-process, at tiny size."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cdvqa.backbones import Mplug, VisualBert
from cdvqa.cli import main
from cdvqa.sparsity import Subnetwork
from tests.conftest import CONF, last_error, overlay, the_run
from tests.test_processes import TWO, command, witnessed

Command = Callable[..., int]
PAPER = sorted(path.name for path in (Path(__file__).parents[1] / "configs" / "paper").glob("*.yaml"))
PRETRAINED = {"visualbert": "bce", "mplug": "ce"}


def runs(backbone: str) -> Path:
    return Path("logs/scenes") / backbone


def answers(backbone: str, run: str) -> list[dict]:
    return json.loads((the_run(run, runs=runs(backbone)) / "predictions" / "test.json").read_text())


def check_tested(backbone: str, run: str) -> None:
    """A run has been finished, and tested on every question."""
    folder = the_run(run, runs=runs(backbone))
    assert json.loads((folder / "run.json").read_text())["finished"]
    splits = json.loads((folder / "results.json").read_text())["splits"]
    assert splits["id"]["n"]["all"] == 90 and splits["test"]["n"]["all"] == 70
    assert len({answer["question_id"] for answer in answers(backbone, run)}) == 70


@pytest.mark.parametrize(
    ("backbone", "first", "second"),
    [("visualbert", "bce", "lmh"), ("visualbert", "ce", "lpf"), ("visualbert", "rubi", "bce"), ("mplug", "ce", "lpf")],
)
def test_mask_training_goes_through_all_stages(cdvqa: Command, backbone: str, first: str, second: str):
    conf, parent = f"{backbone}.yaml", f"--model.parent_objective={first}"
    assert cdvqa("fit", f"stage1_{first}.yaml", conf, f"--model.objective={first}") == 0
    assert cdvqa("fit", f"stage2_{second}.yaml", conf, "tiny_masks.yaml", f"--model.objective={second}", parent) == 0
    pipeline = [f"--model.objective={first}", f"--model.parent_objective={first}+{second}"]
    for name in ("fit", "test", "predict"):
        assert cdvqa(name, f"stage3_{first}.yaml", conf, *pipeline) == 0
    check_tested(backbone, f"stage3_{first}+{second}+{first}_mask_uniform_s50")
    tuned = the_run(f"stage3_{first}+{second}+{first}_mask_uniform_s50", runs=runs(backbone))
    network = Subnetwork.load(tuned / "subnetwork.safetensors")
    for name, mask in network.masks.items():
        assert int((~mask).sum()) == int(0.5 * mask.numel() + 0.5), name
        assert not network.state[name][~mask].any(), name


@pytest.mark.parametrize("backbone", PRETRAINED)
def test_one_shot_pruning_and_stage_3_after_it(cdvqa: Command, backbone: str):
    objective, conf = PRETRAINED[backbone], f"{backbone}.yaml"
    assert cdvqa("fit", f"stage1_{objective}.yaml", conf) == 0
    omp = [f"--model.parent_objective={objective}", "--model.sparsity.overall=0.7"]
    assert cdvqa("prune", "stage2_omp.yaml", conf, *omp) == 0
    assert cdvqa("test", "stage2_omp.yaml", conf, *omp) == 0
    check_tested(backbone, f"stage2_{objective}_omp_uniform_s70")
    assert cdvqa("fit", f"stage3_{objective}.yaml", conf, *omp, "--model.sparsity.method=omp") == 0
    run = the_run(f"stage3_{objective}+{objective}_omp_uniform_s70", runs=runs(backbone))
    assert (run / "subnetwork.safetensors").is_file()


@pytest.mark.parametrize(
    ("backbone", "objective"),
    [*(("updn", objective) for objective in ("bce", "ce", "lmh", "rubi", "lpf")), ("smrl", "bce"), ("smrl", "lmh")],
)
def test_updn_and_smrl_are_for_stage_1(cdvqa: Command, backbone: str, objective: str):
    for name in ("fit", "test", "predict"):
        assert cdvqa(name, f"stage1_{objective}.yaml", f"{backbone}.yaml") == 0
    check_tested(backbone, f"stage1_{objective}")
    # Nothing can be masked, so what ships is counted, not the classifier alone.
    run = the_run(f"stage1_{objective}", runs=runs(backbone))
    everything = sum(tensor.numel() for tensor in load_file(run / "model.safetensors").values())
    assert json.loads((run / "run.json").read_text())["parameters"] == {"full": everything, "kept": everything}


def test_smrl_trains_with_its_published_schedule(cdvqa: Command):
    assert cdvqa("fit", "stage1_bce.yaml", "smrl.yaml", "--model.schedule=epoch_steps", "--trainer.max_epochs=3") == 0
    checkpoint = torch.load(the_run("stage1_bce", runs=runs("smrl")) / "checkpoints" / "last.ckpt", weights_only=True)
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [pytest.approx(0.002 * 1.25)], "the rate of the fourth epoch"


@pytest.mark.parametrize("backbone", ["updn", "smrl"])
@pytest.mark.parametrize(
    ("name", "config"),
    [("fit", "stage2_lmh.yaml"), ("prune", "stage2_omp.yaml"), ("fit", "stage3_lmh.yaml"), ("info", "stage2_lmh.yaml")],
)
def test_they_are_refused_by_the_other_stages(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], backbone: str, name: str, config: str
):
    assert cdvqa(name, config, f"{backbone}.yaml") == 2
    assert f"{backbone} is a baseline for stage 1, with no matrices to mask" in last_error(capsys)
    assert not Path("logs").exists()


@pytest.mark.parametrize("objective", ["bce", "lmh", "rubi"])
def test_mplug_refuses_objectives_over_a_vocabulary(cdvqa: Command, capsys: pytest.CaptureFixture[str], objective: str):
    assert cdvqa("fit", f"stage1_{objective}.yaml", "mplug.yaml", f"--model.objective={objective}") == 2
    assert f"mplug does not take {objective}, only ce, lpf" in last_error(capsys)
    assert not Path("logs").exists()


def test_word_pieces_that_cannot_write_the_answers_are_told_of(cdvqa: Command, scenes: Path):
    """Those of the world's questions lack "yes", so that nobody could learn to say it; those of its mPLUG do not."""
    with pytest.warns(UserWarning, match=r"word pieces cannot write \d+% of the human answers"):
        assert cdvqa("fit", "stage1_ce.yaml", "mplug.yaml", "--trainer.max_epochs=0") == 0
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*cannot write")
        assert cdvqa("fit", "stage1_ce.yaml", "mplug.yaml", f"--data.tokenizer={scenes / 'mplug'}", "--overwrite") == 0


@pytest.mark.parametrize("backbone", PRETRAINED)
def test_a_modality_budget_is_refused_where_there_are_no_modalities(
    cdvqa: Command, capsys: pytest.CaptureFixture[str], backbone: str
):
    objective = PRETRAINED[backbone]
    assert cdvqa("fit", f"stage1_{objective}.yaml", f"{backbone}.yaml") == 0
    status = cdvqa("fit", f"stage2_{objective}.yaml", f"{backbone}.yaml", "modality.yaml")
    if backbone == "mplug":  # it has all three
        assert status == 0
        return
    assert status == 2
    assert "this one has no vision" in last_error(capsys)


@pytest.mark.parametrize("backbone", PRETRAINED)
def test_plain_ddp_trains_stages_1_and_2(cdvqa: Command, scenes: Path, backbone: str):
    """DDP stops at a parameter that is trained but never used."""
    objective = PRETRAINED[backbone]
    world = [*overlay(scenes), f"--config={CONF / f'{backbone}.yaml'}", "--trainer.max_epochs=1", *TWO]
    witness = "--trainer.callbacks+=tests.witness.Witness"
    for config in (f"stage1_{objective}.yaml", f"stage2_{objective}.yaml"):
        command("fit", config, world, witness)
        first, second = witnessed(0), witnessed(1)
        torch.testing.assert_close(second["state"], first["state"], rtol=0, atol=0)


@pytest.mark.parametrize("backbone", PRETRAINED)
def test_the_authors_presets_run(cdvqa: Command, backbone: str):
    objective, conf = PRETRAINED[backbone], f"{backbone}.yaml"
    flags = ["--model.preset=authors", "--model.warmup=2", "--model.global_batch=64"]
    assert cdvqa("fit", f"stage1_{objective}.yaml", conf, *flags) == 0
    start = ["--model.sparsity.scores=weight"] if backbone == "mplug" else []
    assert cdvqa("fit", f"stage2_{objective}.yaml", conf, "tiny_masks.yaml", *flags, *start) == 0
    suffix = "_weight" if backbone == "mplug" else ""
    run = the_run(f"stage2_{objective}+{objective}_mask_uniform_s50{suffix}", runs=runs(backbone))
    if backbone == "mplug":  # what their list of the frozen leaves out
        dense = Subnetwork.load(the_run(f"stage1_{objective}", runs=runs(backbone)) / "model.safetensors").state
        masked = Subnetwork.load(run / "subnetwork.safetensors")
        moved = {name for name, tensor in masked.state.items() if not torch.equal(tensor, dense[name])}
        attention = {f"vision.encoder.layers.0.self_attn.{part}_proj.bias" for part in "qv"}
        assert attention <= moved - set(masked.masks)
        assert all(
            name in attention or "classifier." in name or "k_proj.bias" in name for name in moved - set(masked.masks)
        )
    protocol = json.loads((run / "run.json").read_text())["protocol"]
    assert protocol["tie_break"] == ("strict_bf16" if backbone == "mplug" else "strict")
    assert protocol["weight_decay"] == (0.02 if backbone == "mplug" else 0)


@pytest.mark.parametrize("backbone", [*PRETRAINED, "updn", "smrl"])
def test_half_precision_and_checkpointed_gradients_run(cdvqa: Command, backbone: str):
    flags = ["--trainer.precision=bf16-mixed", "--model.gradient_checkpointing=true"]
    objective = PRETRAINED.get(backbone, "bce")
    assert cdvqa("fit", f"stage1_{objective}.yaml", f"{backbone}.yaml", *flags) == 0
    assert cdvqa("test", f"stage1_{objective}.yaml", f"{backbone}.yaml", *flags) == 0
    run = the_run(f"stage1_{objective}", runs=runs(backbone))
    network = Subnetwork.load(run / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in network.state.values())
    assert json.loads((run / "results.json").read_text())["splits"]["test"]["n"]["all"] == 70


@pytest.fixture(params=PRETRAINED)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A backbone, and a folder with weights for it as they are published."""
    name, folder = request.param, tmp_path / "published"
    sizes = yaml.safe_load((CONF / f"{name}.yaml").read_text())["model"]["backbone"]["init_args"]["config"]
    if name == "mplug":
        Mplug(5, pretrained=None, config=sizes).save_pretrained(folder)
    else:
        VisualBert(5, pretrained=None, config=sizes).visual_bert.save_pretrained(folder)
    return name, folder


def truncate(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:5000])


def leave_out(weights: Path) -> None:
    tensors = load_file(weights)
    save_file({name: tensor for name, tensor in tensors.items() if "layer" not in name}, weights, {"format": "pt"})


def cut_words(weights: Path) -> None:
    tensors = load_file(weights)
    cut = {name: tensor[:100].clone() if "word_embeddings" in name else tensor for name, tensor in tensors.items()}
    save_file(cut, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"), [(truncate, ""), (leave_out, "missing"), (cut_words, "word_embeddings"), (Path.unlink, "")]
)
def test_a_bad_checkpoint_is_refused_in_one_line(
    cdvqa: Command,
    capsys: pytest.CaptureFixture[str],
    published: tuple[str, Path],
    damage: Callable[[Path], None],
    message: str,
):
    backbone, folder = published
    start = folder.with_suffix(".yaml")
    start.write_text(f"model: {{backbone: {{init_args: {{pretrained: {folder}, config: null}}}}}}")
    arguments = ["fit", f"stage1_{PRETRAINED[backbone]}.yaml", f"{backbone}.yaml", start]
    assert cdvqa(*arguments) == 0
    shutil.rmtree("logs")
    capsys.readouterr()
    damage(folder / "model.safetensors")
    assert cdvqa(*arguments) == 2
    last = last_error(capsys)
    assert last.startswith(f"cdvqa fit: {folder}") and message in last
    assert not Path("logs").exists()


@pytest.mark.parametrize("config", PAPER)
def test_the_papers_configs_build_their_models(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["info", "--config", config]) == 0
    assert f"{config.split('_')[1]}: " in capsys.readouterr().out
