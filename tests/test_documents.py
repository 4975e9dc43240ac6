"""README and docs: every block is executed here or by its page's own test, or is marked as not run."""

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import yaml

import cdvqa
from cdvqa.cli import main
from cdvqa.studies.sweep.study import read_study
from cdvqa.worlds import scenes

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TESTED_ELSEWHERE = {
    "docs/EXTEND.md": "tests/extending",
    "docs/format.md": "tests/sparsity/test_subnetwork.py",
    "docs/mistakes.md": "tests/test_mistakes.py",
}
NOTEBOOK = "docs/quickstart.ipynb"
ASSERTED = {NOTEBOOK: ("table", "questions"), "docs/library.md": ("table",)}
WITH_RUNS = "docs/evaluate.md"  # its commands are for finished runs
# The commands are as written, but for these: trainings are cut short, and the world is smaller.
SHORT = {"trainer__max_epochs": 1, "trainer__limit_train_batches": 2, "data__min_count": 2}
FLAGS = [f"--{name.replace('__', '.')}={value}" for name, value in SHORT.items()]
TRAINER = ("fit", "test", "validate", "predict")


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str
    not_run: str | None  # the reason

    @property
    def commands(self) -> list[str]:
        """Commands of a console, without comments; a line that ends in a backslash goes on."""
        lines = re.sub(r"\\\n\s+", "", self.text).splitlines()
        return [line.removeprefix("$ ").partition(" #")[0].rstrip() for line in lines if line.startswith("$ ")]


def blocks() -> list[Block]:
    found = []
    fenced = re.compile(r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w+)\n(.*?)^```$", re.M | re.S)
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        text, page = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        here = [Block(page, text[: m.start()].count("\n") + 1, m[2], m[3], m[1]) for m in fenced.finditer(text)]
        assert len(re.findall(r"^```", text, re.M)) == 2 * len(here), f"{page}: a block without a language"
        found += here
    for number, cell in enumerate(orjson.loads((ROOT / NOTEBOOK).read_bytes())["cells"]):
        text = "".join(cell["source"]) + "\n"
        if cell["cell_type"] == "code":
            console = text.startswith("!")
            language, text = ("console", text.replace("!", "$ ")) if console else ("python", text)
            found.append(Block(NOTEBOOK, number, language, text, None))
    return found


BLOCKS = [block for block in blocks() if block.page not in TESTED_ELSEWHERE]
CONSOLE = [(block, command) for block in BLOCKS if block.language == "console" for command in block.commands]
EXECUTED = [block for block in BLOCKS if block.language in ("console", "python") and not block.not_run]


def test_pages_with_tests_of_their_own_are_named_rightly():
    assert {block.page for block in blocks()} >= TESTED_ELSEWHERE.keys()
    assert all((ROOT / test).exists() for test in TESTED_ELSEWHERE.values())
    assert {block.language for block in BLOCKS} <= {"console", "python", "yaml", "bibtex", "text"}


@pytest.mark.parametrize(("block", "command"), CONSOLE, ids=[f"{block.page}-{text}" for block, text in CONSOLE])
def test_a_command_has_the_options_and_configs_it_names(block: Block, command: str, capsys: pytest.CaptureFixture[str]):
    program, *args = shlex.split(command)
    assert program in ("cdvqa", "make", "mkdir", "pip")
    if program == "make":
        assert all(re.search(rf"^{word}:", MAKEFILE, re.M) for word in args if "=" not in word)
    elif program == "pip":
        assert args == ["install", "-e", "."]
    elif program == "mkdir":
        assert args[1:] == ["&&", "cd", args[0]]
    elif args[0] in TRAINER and "RUN" not in command:
        assert main([*args, "--print_config"]) == 0, capsys.readouterr().err
    else:
        assert main([*args[: 2 if args[0] == "prepare" else 1], "--help"]) == 0
        output = capsys.readouterr().out
        assert all(f" {word}" in output for word in args if word.startswith("--"))


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda b: f"{b.page}:{b.line}")
def test_yaml_is_what_its_reader_takes(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "shown.yaml"
    path.write_text(block.text)
    if "trainer" in yaml.safe_load(block.text):
        assert main(["fit", "--config", "stage2_lmh.yaml", "--config", str(path), "--print_config"]) == 0
    else:  # a study, or a part of one
        grid = "data: scenes\nbackbone: lxmert\nseeds: 1\nruns: [{pipeline: bce}]\n"
        path.write_text(block.text if "runs:" in block.text else grid + block.text)
        shown = yaml.safe_load(block.text)
        study = read_study(str(path))
        assert len(study.claims) == len(shown.get("claims", ())) and bool(study.figure) == ("figure" in shown)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which README's commands were given: few test questions, two steps a stage."""
    folder = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        few = {"full": (4_000, 90, 70), "micro": (4_000, 60, 50)}  # all answers, twice
        for size, (train, in_distribution, out_of_distribution) in few.items():
            patch.setitem(scenes.SIZES, size, scenes.SceneConstants(train, in_distribution, out_of_distribution))
        assert main(["prepare", "scenes"]) == main(["prepare", "scenes", "--size", "micro"]) == 0
        for block in EXECUTED:
            if block.page == "README.md":
                execute(block)
    return folder


def execute(block: Block, **names: str) -> None:
    """Give the commands of a console block, RUN and the like replaced; trainings are short."""
    for command in block.commands:
        for name, value in names.items():
            command = re.sub(rf"\b{name}\b", value, command)
        program, *args = shlex.split(command)
        if program == "cdvqa" and args[:2] != ["prepare", "scenes"]:
            short = FLAGS if args[0] in TRAINER and "/config.yaml" not in command else []
            assert main([*args, *short]) == 0, f"{block.page}:{block.line}: {command}"


@pytest.mark.slow
def test_the_commands_of_the_readme_make_three_stages_and_a_report(walk: Path):
    runs = sorted(path.parents[1].name.rpartition("-")[0] for path in walk.glob("logs/scenes/lxmert/*/*/run.json"))
    assert runs == ["stage1_bce", "stage2_bce+lmh_mask_uniform_s50", "stage3_bce+lmh+lmh_mask_uniform_s50"]
    assert len(list(walk.glob("logs/scenes/lxmert/*/*/results.json"))) == 1
    assert (walk / "logs" / "report" / "report.html").is_file()


@pytest.mark.slow
def test_the_commands_for_finished_runs_are_executed(walk: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(walk)
    image = orjson.loads(Path("data/scenes/vqacp_v2_id_questions.json").read_bytes())[0]["image_id"]
    Path("mine.json").write_bytes(orjson.dumps([{"question_id": 1, "image_id": image, "question": "what is it"}]))
    run, other = (str(next(walk.glob(f"logs/scenes/lxmert/{stage}*/seed0"))) for stage in ("stage2", "stage3"))
    for block in EXECUTED:
        if block.page == WITH_RUNS:
            execute(block, RUN=run, OTHER_RUN=other)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in EXECUTED} - {"README.md", WITH_RUNS}))
def test_a_page_is_executed(page: str, walk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "data").symlink_to(walk / "data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cdvqa, "train", partial(cdvqa.train, **SHORT))
    variables: dict[str, Any] = {}
    for block in EXECUTED:
        if block.page == page and block.language == "console":
            execute(block)
        elif block.page == page:
            exec(block.text, variables)
    for name in ASSERTED.get(page, ()):
        assert len(variables[name]), f"{page}: {name} is empty"
