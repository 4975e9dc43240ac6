"""docs/EXTEND.md shows the very files that the tests here drive."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PAGE = FOLDER.parents[1] / "docs" / "EXTEND.md"
FILES = [
    path for path in sorted([*FOLDER.glob("*.py"), *FOLDER.glob("*.yaml")]) if not path.name.startswith(("test_", "__"))
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_page_shows_the_file(path: Path) -> None:
    language = {".py": "python", ".yaml": "yaml"}[path.suffix]
    assert f"```{language}\n{path.read_text()}```" in PAGE.read_text(), f"show {path.name} in docs/EXTEND.md"
