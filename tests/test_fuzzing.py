"""Some hundred mutations of what each reader reads; `make torture` has a hundred thousand."""

import pytest

from tests.fuzzing import READERS, fuzz


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, tmp_path):
    outcome = fuzz(name, 300, 1, tmp_path / "files")
    assert outcome.counts.total() == 300 and outcome.uncaught == 0, outcome.examples
    assert outcome.counts["refused"] > 30 and outcome.peak < 300
