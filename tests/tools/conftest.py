"""Fixtures of the tools' tests."""

import pytest

from cdvqa.conversion.sources.source import FeatureSource


@pytest.fixture
def blocks_of_two(monkeypatch):
    monkeypatch.setattr(FeatureSource, "images_per_block", 2)
