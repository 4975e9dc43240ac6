"""Some hundred mutations of what each reader reads, more of networks; `make torture` has a hundred thousand."""

import pytest

from tests.fuzzing import READERS, fuzz


@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name, tmp_path):
    mutations = 10_000 if name.startswith("network files") else 300
    outcome = fuzz(name, mutations, 1, tmp_path / "files")
    assert outcome.counts.total() == mutations and outcome.uncaught == 0, outcome.examples
    assert outcome.counts["refused"] > 30 and outcome.peak < 300
