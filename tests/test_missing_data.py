"""A data set or weights that are not there are named at once, before anything is built."""

from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from cdvqa.cli import main
from cdvqa.data.questions.text import load_tokenizer
from cdvqa.errors import InputError
from cdvqa.hub import WEIGHTS, is_local
from tests.conftest import last_error


def test_an_embedded_world_that_is_not_made_yet_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """It took 13 seconds, for a backbone was made first, and sent people to the official question files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cdvqa.backbones.lxmert.architecture", lambda *args: pytest.fail("a backbone is made first"))
    assert main(["fit", "--config", "stage1_bce.yaml", "--config", "scenes.yaml"]) == 2
    said = last_error(capsys)
    assert "data/scenes: no such folder; `cdvqa prepare scenes --output data/scenes` makes this data set" in said
    assert not list(tmp_path.iterdir())


def test_small_models_of_a_world_that_is_not_made_yet_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An LXMERT-base was made, which does not take the features of a micro world."""
    monkeypatch.chdir(tmp_path)
    Path("data/scenes-micro").mkdir(parents=True)
    configs = [f"--config={name}.yaml" for name in ("stage1_bce", "scenes", "micro")]
    assert main(["fit", *configs]) == 2
    said = capsys.readouterr().err
    assert "data/scenes/lxmert: no such folder; `cdvqa prepare scenes --output data/scenes` makes this data set" in said
    Path("data/scenes-micro").rmdir()
    assert main(["fit", *configs]) == 2
    assert "`cdvqa prepare scenes --size micro --output data/scenes-micro` makes" in capsys.readouterr().err


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch, offline: bool):
    """transformers asked for each of the files, again and again, for 101 seconds."""
    asked = []

    def fail(*args: object, **options: object) -> None:
        asked.append(options["timeout"])
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(HfApi, "model_info", fail)
    reason = "HF_HUB_OFFLINE is set" if offline else "nor to be fetched .Name or service not known"
    with pytest.raises(InputError, match=f"nobody/nothing: not in the Hugging Face cache.*{reason}"):
        is_local("nobody/nothing", WEIGHTS, "give a folder")
    with pytest.raises(InputError, match=r"nobody/nothing: .*--data.tokenizer PATH/vocab.txt"):
        load_tokenizer("nobody/nothing")
    assert len(asked) == (0 if offline else 2) and all(asked)
