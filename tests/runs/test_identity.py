"""What a run is: which settings its identity depends on, and which it does not."""

from pathlib import Path
from typing import Any

import pytest

from cdvqa.cli.configs import shipped, shipped_configs
from cdvqa.cli.inspect import ConfigInspector
from cdvqa.runs.identity import IDENTITY, OUTSIDE, condition_of, differences, digest_of, flatten
from cdvqa.runs.weights import weights_identity
from tests.conftest import CONF

TINY = ["--config", str(CONF / "tiny.yaml")]
CONFIGS = shipped_configs()


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data and no weights lie here."""
    monkeypatch.chdir(tmp_path)


def settings(*args: str) -> dict[str, Any]:
    return ConfigInspector([*args]).settings()


def digest(config: str, *flags: str) -> str:
    return digest_of(settings("--config", config, *TINY, *flags))


class Parsed(ConfigInspector):
    """A configuration, parsed and no more."""

    def instantiate_classes(self) -> None:
        pass


def test_every_field_is_in_or_out():
    """A new option fails here until somebody decides whether it can change the trained network."""
    wrong = set()
    for path in CONFIGS:
        base = [] if path.parent == shipped() or path.parent.name == "paper" else ["--config", "stage2_lmh.yaml"]
        for name, _ in flatten(Parsed([*base, "--config", path.name]).config.as_dict()):
            try:
                condition_of(name)
            except KeyError as error:
                wrong.add(f"{path.name}: {error}")
    assert not wrong
    assert not OUTSIDE & IDENTITY.keys()


SAME = {
    "the seed": ["--seed_everything=7"],
    "devices": ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.num_nodes=2", "--trainer.accelerator=cpu"],
    "accumulation": ["--trainer.accumulate_grad_batches=2"],
    "loading": ["--data.num_workers=2", "--data.eval_batch_size=7"],
    "paths": ["--data.root=elsewhere", "--data.features=other.h5", "--trainer.default_root_dir=elsewhere"],
    "speed and memory": ["--model.compile=true", "--model.gradient_checkpointing=true"],
    "logs": [
        "--trainer.logger=false",
        "--trainer.log_every_n_steps=1",
        "--trainer.enable_progress_bar=true",
        "--checkpoint_every_n_steps=3",
    ],
    "a default in words": ["--trainer.precision=32-true", "--model.objective_options.entropy_weight=0.36"],
    "preset fields": ["--model.selection=dev", "--model.no_answer=skip", "--model.lmh_trainable=true"],
    "where it starts": ["--model.parent_objective=lpf"],
}
OTHER = {
    "rate": ["--model.lr=0.1"],
    "the objective's rate": ["--model.objective_lr=0.1"],
    "its clipping": ["--model.objective_clip=1"],
    "preset": ["--model.preset=authors"],
    "epochs": ["--trainer.max_epochs=3"],
    "steps": ["--trainer.max_steps=3"],
    "batches": ["--trainer.limit_train_batches=3"],
    "all batches, or one": ["--trainer.limit_train_batches=1"],
    "validation interval": ["--trainer.val_check_interval=0.5"],
    "validations": ["--trainer.check_val_every_n_epoch=2"],
    "clipping": ["--trainer.gradient_clip_val=2.0"],
    "precision": ["--trainer.precision=64-true"],
    "callback": ["--trainer.callbacks+=tests.witness.Witness"],
    "objective": ["--model.objective=bce"],
    "option": ["--model.objective_options.entropy_weight=0.5"],
    "preset field": ["--model.lmh_trainable=false"],
    "t_m": ["--model.sparsity.reset_every=7"],
    "alpha": ["--model.sparsity.alpha=3"],
    "share": ["--model.sparsity.overall=0.51"],
    "assignment": ["--model.sparsity.assignment=global"],
    "criterion": ["--model.sparsity.criterion=random"],
    "its option": ["--model.sparsity.criterion=random", "--model.sparsity.criterion_options.seed=3"],
    "scores": ["--model.sparsity.scores=weight"],
    "phi": ["--model.sparsity.threshold=0.02"],
    "tie break": ["--model.tie_break=strict"],
    "size": ["--model.backbone.config.hidden_size=32"],
    "data": ["--data.name=other"],
    "layout": ["--data.layout=vqa2"],
    "augmentation": ["--data.augmentation=mplug"],
    "vocabulary": ["--data.min_count=10"],
    "development split": ["--data.split_seed=1"],
    "its rule": ["--data.dev_split=iid"],
    "its share": ["--data.dev_share=0.1"],
}


@pytest.mark.parametrize("what", SAME)
def test_settings_that_cannot_change_the_network_are_outside(what: str):
    assert digest("stage2_lmh.yaml", *SAME[what]) == digest("stage2_lmh.yaml")


def test_every_setting_that_can_change_the_network_makes_another_run():
    """Defect: γ, t_m, rates, preset and α did not, and `--overwrite` of one run destroyed the other."""
    digests = {what: digest("stage2_lmh.yaml", *flags) for what, flags in OTHER.items()}
    assert len({*digests.values(), digest("stage2_lmh.yaml")}) == len(OTHER) + 1
    stages = [settings("--config", config, *TINY) for config in ("stage1_lmh.yaml", "stage3_lmh.yaml")]
    assert "model.class_path" in differences(*stages)


def test_all_of_train_is_another_run_than_all_but_the_development_split():
    """Defect: with the last state kept, a share of 0 and the baseline's 0.05 were one run."""
    last = ["--model.selection=last"]
    digests = [digest("stage1_bce.yaml", *last, *share) for share in ([], ["--data.dev_share=0"])]
    assert digests[0] != digests[1]
    own = [digest("stage1_bce.yaml", "--data.layout=vqavs", *last, f"--data.dev_share={share}") for share in (0, 0.05)]
    assert own[0] == own[1], "nothing is held out of train where there is a split of its own"


def test_modality_assignments_of_equal_overall_sparsity_are_two_runs():
    """Defect: they shared a folder."""
    modality = ["--model.sparsity.assignment=modality", "--model.sparsity.overall=0.5"]
    pairs = [("0.5", "0.6"), ("0.6", "0.5")]
    digests = {
        digest("stage2_lmh.yaml", *modality, f"--model.sparsity.language={a}", f"--model.sparsity.cross={b}")
        for a, b in pairs
    }
    assert len(digests) == 2


UNREAD = {
    "one-shot pruning": (
        "stage2_omp.yaml",
        ["--model.lr=1", "--trainer.max_epochs=3", "--model.sparsity.alpha=3", "--model.sparsity.reset_every=7",
         "--model.sparsity.threshold=0.1", "--model.objective=lmh", "--model.warmup=0.1", "--model.weight_decay=1"],
    ),
    "stage 1": (
        "stage1_lmh.yaml",
        ["--model.tie_break=strict", "--model.reset_before_evaluation=false", "--model.train_classifier=false"],
    ),
    "bce": ("stage1_bce.yaml", ["--model.normalise_prior=true", "--model.no_answer=random"]),
    "ce": ("stage1_ce.yaml", ["--model.normalise_prior=true", "--model.no_answer=random"]),
    "lmh": ("stage1_lmh.yaml", ["--model.no_answer=random"]),
    "a cosine schedule": ("stage1_bce.yaml", ["--model.schedule=epoch_cosine", "--model.warmup=0.1"]),
    "selection on test": ("stage1_bce.yaml", ["--model.selection=test", "--data.split_seed=3", "--data.dev_split=iid"]),
}  # fmt: skip


@pytest.mark.parametrize("what", UNREAD)
def test_what_a_stage_does_not_read_is_outside(what: str):
    config, flags = UNREAD[what]
    first = [flag for flag in flags if "epoch_cosine" in flag or "selection" in flag]
    assert digest(config, *flags) == digest(config, *first)


def test_authors_with_every_field_as_in_the_paper_is_the_papers_run():
    fields = ["optimizer=adamw", "global_batch=64", "warmup=0.25", "lmh_trainable=true", "text_format=standard"]
    fields += ["no_answer=skip", "selection=dev", "tie_break=exact", "reset_before_evaluation=true"]
    flags = [*(f"--model.{field}" for field in fields), "--data.dev_share=0.05"]
    assert digest("stage1_lmh.yaml", "--model.preset=authors", *flags) == digest("stage1_lmh.yaml")


def test_shares_enter_as_numbers_of_zeros():
    counts = settings("--config", "stage2_lmh.yaml", *TINY)
    assert counts["model.sparsity.zeros.pooler"] == 128 and "model.sparsity.overall" not in counts
    assert digest("stage2_lmh.yaml", "--model.sparsity.overall=0.5000000001") == digest("stage2_lmh.yaml")


def test_a_field_at_its_baseline_is_left_out_and_one_and_1_0_differ():
    assert digest_of({"model.lr": 5e-5, "data.name": "x"}) == digest_of({"data.name": "x"})
    assert digest_of({"a": 1}) != digest_of({"a": 1.0})
    assert differences({"model.lr": 5e-5, "a": 1}, {"a": 2}) == {"a": (1, 2)}


# Computed when identities were introduced. A digest that changes here changes for everybody's runs: add an option's
# earlier behaviour to identity_baseline.json instead.
FROZEN = {
    "stage1_bce.yaml": "b2f661d3644284798c7434c72d2a7d047030d287a83ab74acf6a955868ddb1b6",
    "stage2_lmh.yaml": "4f2cbe7967f49737a3ac1afce13134cb075da52899cf44802d715ff4dcecf38d",
    "stage2_omp.yaml": "a39cd8a5c8f836b065da52562f46243bd1ed43cc44dd6d4feb83db466ffcc73c",
}


@pytest.mark.parametrize("config", FROZEN)
def test_identities_are_frozen(config: str):
    assert digest(config) == FROZEN[config]


def test_weights_enter_by_content_never_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        (tmp_path / name / "README.md").write_text(name)
    first, second = (weights_identity(str(tmp_path / name)) for name in ("a", "b"))
    assert first == second and str(first).startswith("sha256 ")
    (tmp_path / "b" / "model.safetensors").write_bytes(b"others!")
    assert weights_identity(str(tmp_path / "b")) != first
    assert weights_identity("unc-nlp/lxmert-base-uncased").startswith("hub unc-nlp/lxmert-base-uncased")  # type: ignore[union-attr]
    assert weights_identity("no/such/folder") is None
    cached = Path("models--unc-nlp--lxmert/snapshots/0a1b2c/config.json")
    monkeypatch.setattr("cdvqa.runs.weights.find_locally", lambda *args: cached)
    assert weights_identity("unc-nlp/lxmert") == "hub unc-nlp/lxmert@0a1b2c"


def test_the_digest_of_large_weights_is_kept_beside_them(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(2**24 + 1))
    first = weights_identity(str(file))
    assert [path.name for path in tmp_path.iterdir() if path != file] == [".model.safetensors.sha256.json"]
    assert weights_identity(str(file)) == first
    file.write_bytes(bytes(2**24) + b"1")
    assert weights_identity(str(file)) != first
