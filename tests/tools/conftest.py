"""Fixtures of the tools' tests."""

import pytest

from cdvqa.data import conversion


@pytest.fixture
def blocks_of_two(monkeypatch):
    monkeypatch.setattr(conversion, "BLOCK", 2)
