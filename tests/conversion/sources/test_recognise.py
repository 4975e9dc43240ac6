"""Each published format is known by its looks."""

from pathlib import Path
from typing import get_args

import pytest

from cdvqa.conversion.sources import SOURCES, open_features, source_class
from cdvqa.conversion.sources.source import FeatureFormat
from cdvqa.errors import InputError
from tests.tools.features_tsv import bottom_up, lxmert, sample_images, write_tsv


def test_the_table_holds_every_format_under_its_own_name():
    assert {"auto", *SOURCES} == set(get_args(FeatureFormat))
    assert all(source_class(format).format == format for format in SOURCES)


@pytest.mark.parametrize("line, format", [(bottom_up, "bottom-up"), (lxmert, "lxmert")])
def test_a_tsv_is_recognised_by_one_format_only(tmp_path, line, format):
    path = write_tsv(tmp_path / "in.tsv", sample_images(), line)
    assert [name for name in SOURCES if source_class(name).recognises(path)] == [format]
    assert open_features(str(path)).path == Path(path)


def test_nothing_is_recognised_in_what_is_none(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no features")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=f"{path.name}: looks like none of bottom-up, lxmert"):
            open_features(path)
    with pytest.raises(InputError, match="absent: no such file or folder"):
        open_features(tmp_path / "absent")
