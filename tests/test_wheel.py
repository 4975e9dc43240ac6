"""The package as it is published: built, and installed in an environment of its own."""

import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build = [
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (path,) = folder.glob("cdvqa-*.whl")
    return path


def test_the_wheel_has_what_is_read_at_run_time_and_its_metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        fields = Parser().parsestr(file.read(metadata).decode())
    package = ROOT / "cdvqa"
    read = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(ROOT).as_posix() for path in read} <= names
    assert {f"cdvqa/configs/{path.relative_to(ROOT / 'configs')}" for path in ROOT.glob("configs/**/*.yaml")} <= names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]
    assert fields["Author"] and fields["License-Expression"] == "MIT" and fields.get_all("Project-URL")
    assert "Typing :: Typed" in fields.get_all("Classifier", [])
    links = re.findall(r"\]\(([^)]*)\)", str(fields.get_payload()))
    assert links == [link for link in links if link.startswith("https://")], "relative links lead nowhere"


def test_an_installed_cdvqa_runs_without_its_repository(wheel: Path, tmp_path: Path):
    """Its dependencies are those of the tests, whose folder of packages is added to the new path."""
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (packages,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env={"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    cdvqa = str(tmp_path / "env" / "bin" / "cdvqa")
    assert str(packages) in run(str(python), "-c", "import cdvqa; print(cdvqa.__file__)")
    assert "stage2_lmh.yaml" in run(cdvqa, "configs") and "--model.sparsity.overall" in run(cdvqa, "fit", "--help")
    assert "cdvqa.stages.MaskTrain" in run(cdvqa, "fit", "--config", "stage2_lmh.yaml", "--print_config")
