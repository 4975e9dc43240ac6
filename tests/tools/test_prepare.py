"""The command line of `cdvqa prepare`: subcommands, flags, and what it leaves unimported."""

import subprocess
import sys

import pytest

from cdvqa.cli import main
from tests.tools.features_tsv import sample_images, write_tsv


@pytest.mark.parametrize("command, module", [("scenes", "scenes"), ("scenes-vs", "scenes_vs"), ("easyvqa", "easyvqa")])
def test_a_world_is_made_in_the_folder_and_from_the_seed(monkeypatch, command, module):
    pytest.importorskip("easy_vqa")
    made = []
    monkeypatch.setattr(
        f"cdvqa.worlds.{module}.build_world", lambda output, identity, build: made.append((output, identity))
    )
    assert main(["prepare", command]) == 0
    assert main(["prepare", command, "--output", "here", "--seed=3"]) == 0
    assert [(str(output), identity["seed"]) for output, identity in made] == [(f"data/{command}", 0), ("here", 3)]


def test_a_micro_world_is_a_quarter_of_the_full_one_which_stays_as_it_was(monkeypatch):
    made = {}
    for module in ("scenes", "scenes_vs"):
        monkeypatch.setattr(
            f"cdvqa.worlds.{module}.build_world", lambda output, identity, build: made.update({str(output): identity})
        )
        for size in ("full", "micro"):
            assert main(["prepare", module.replace("_", "-"), "--size", size]) == 0
    sizes = {folder: list(identity["constants"].values())[:3] for folder, identity in made.items()}
    assert sizes == {
        "data/scenes": [16_000, 4_000, 4_000],
        "data/scenes-micro": [4_000, 1_000, 1_000],
        "data/scenes-vs": [16_000, 1_500, 8_000],
        "data/scenes-vs-micro": [4_000, 400, 2_000],
    }
    # Existing worlds are recognised by these.
    hard = {"questions_per_image": 4, "noise": 2.4, "prior_strength": 0.85, "hard_share": 0.05}
    for name, rest in (("scenes", hard), ("scenes-vs", {"boost": 6.0})):
        for folder in (f"data/{name}", f"data/{name}-micro"):
            identity = made[folder]
            assert (identity["world"], identity["version"], identity["seed"]) == (name, 2, 0)
            assert dict(list(identity["constants"].items())[3:]) == rest


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["scenes", "--size", "nano"], "nano"),
        ([], "name what to prepare: scenes, scenes-vs, easyvqa, features, questions"),
        (["features", "--input", "a.tsv"], "--output: missing; `cdvqa prepare features --help` explains it"),
        (["features", "--input=a.tsv", "--output=b.h5", "--dtype=float64"], "float64"),
        (["features", "--input=a.tsv", "--output=b.h5", "--format=csv"], "csv"),
    ],
)
def test_wrong_arguments_are_refused(capsys, arguments, said):
    assert main(["prepare", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_help_is_the_docstring(capsys):
    assert main(["prepare", "features", "--help"]) == 0
    text = capsys.readouterr().out
    assert "from published region features or from own images" in " ".join(text.split())
    assert "--overwrite" in text and "[float16|float32, default float16]" in " ".join(text.split())


def test_neither_help_nor_a_conversion_imports_torch(tmp_path):
    """But for float16, which torch rounds fifteen times as fast as numpy."""
    source = write_tsv(tmp_path / "in.tsv", sample_images())
    code = (
        "import sys; from cdvqa.cli import main; main(['prepare', '--help'])\n"
        "args = ['--input', sys.argv[1], '--output', sys.argv[2], '--dtype', 'float32']\n"
        "assert main(['prepare', 'features', *args]) == 0\n"
        "assert not {'torch', 'pytorch_lightning', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, source, tmp_path / "out.h5"], check=True, stdout=subprocess.DEVNULL)
