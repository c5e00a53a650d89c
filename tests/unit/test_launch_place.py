"""Where a job's spools and the service's state are when nothing is given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shipper.errors import LaunchFailed
from shipper.launch import place


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of a user who is not root."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(place.os, "geteuid", lambda: 61001)
    monkeypatch.setattr(os, "lstat", lambda path, real=os.lstat: _OfUser(real(path)))
    return home


class _OfUser:
    """A status of a file of this user."""

    def __init__(self, found: os.stat_result) -> None:
        self.st_mode, self.st_uid = found.st_mode, 61001


def test_they_are_those_of_the_users_service(home: Path, tmp_path: Path) -> None:
    assert place.choose({}, spool=None, state=None, shared=tmp_path) == (
        home / ".local/share/lens-ship/spool",
        home / ".local/state/lens-ship",
    )


def test_a_home_of_several_nodes_is_not_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Network:
        is_local = False

    monkeypatch.setattr(place, "file_system_of", lambda path: Network)
    own = tmp_path / "lens-ship-61001"
    chosen = place.choose({}, spool=None, state=None, shared=tmp_path)
    assert chosen == (own / "spool", own / "state")
    assert own.stat().st_mode & 0o777 == 0o700
    assert list(home.iterdir()) == []


def test_what_is_only_looked_for_is_not_made(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typo = tmp_path / "typo"
    place.choose({}, spool=typo, state=None, shared=tmp_path, make=False)
    monkeypatch.setattr(place, "_is_usable", lambda path: False)
    found = place.choose({}, spool=typo, state=None, shared=tmp_path, make=False)
    assert [one.name for one in tmp_path.iterdir()] == ["home"]
    assert place.choose({}, spool=typo, state=None, shared=tmp_path) == found


def test_each_root_has_a_state_of_its_own(home: Path, tmp_path: Path) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    chosen = [place.choose({}, spool=root, state=None, shared=tmp_path) for root in roots]
    assert [root for root, _ in chosen] == roots
    assert len({state for _, state in chosen}) == 2
    again = place.choose({}, spool=roots[0], state=None, shared=tmp_path)
    assert again == chosen[0]


def test_a_directory_that_others_can_change_is_refused(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_is_usable", lambda path: False)
    taken = tmp_path / "lens-ship-61001"
    taken.mkdir()
    taken.chmod(0o777)
    with pytest.raises(LaunchFailed, match="is not a directory of this user alone"):
        place.choose({}, spool=None, state=None, shared=tmp_path)
