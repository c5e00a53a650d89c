"""A recorder of its own for every test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spooler.recorder import Recorder
from tests.kit import spools


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spool root named by the environment; failures are tried again at once."""
    root = tmp_path / "spool"
    spools.settle(monkeypatch, root)
    return root


@pytest.fixture
def mine(root: Path) -> Iterator[Recorder]:
    one = Recorder()
    yield one
    one.shutdown()
