"""The house rules of the package that a program can check; import-linter checks the layers (`make lint`)."""

import re
from collections import Counter
from pathlib import Path

from cdvqa.objectives import OBJECTIVES

PACKAGE = Path(__file__).parents[1] / "cdvqa"
LINES = {path.relative_to(PACKAGE): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}


def test_no_file_is_long():
    assert {str(path): lines for path, lines in LINES.items() if lines > 350} == {}


def test_no_folder_is_crowded():
    files = Counter(path.parent for path in LINES)
    assert {str(folder): number for folder, number in files.items() if number > 14} == {}


def test_no_folder_holds_more_than_about_a_quarter_of_the_package():
    rooms: Counter[str] = Counter()
    for path, lines in LINES.items():
        rooms[path.parts[0]] += lines
    assert {room: lines for room, lines in rooms.items() if lines > 0.27 * sum(LINES.values())} == {}


def test_no_backbone_names_an_objective():
    """An objective declares what it needs, and a backbone what it provides."""
    named = re.compile(rf"[\"']({'|'.join(OBJECTIVES)})[\"']")
    files = (PACKAGE / "backbones").rglob("*.py")
    assert {path.name: found for path in files if (found := named.findall(path.read_text()))} == {}
