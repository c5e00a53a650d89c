"""Spools are found by the form of their name, to a bounded depth, and never through a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shipper.discovery.layout import DEPTH, find_spools
from tests.kit.spools import spool_id


def made(root: Path, *parts: str) -> Path:
    directory = root.joinpath(*parts)
    directory.mkdir(parents=True)
    return directory


def test_spools_are_found_in_the_usual_place_in_order(tmp_path: Path) -> None:
    expected = [
        made(tmp_path, f"node_{node}", f"rank_{rank}", spool_id(node * 2 + rank))
        for node in range(2)
        for rank in range(2)
    ]
    assert list(find_spools(tmp_path)) == expected


def test_a_spool_may_lie_anywhere_down_to_the_depth_and_no_deeper(tmp_path: Path) -> None:
    expected = {
        made(tmp_path, *(f"d{level}" for level in range(depth)), spool_id(depth))
        for depth in range(DEPTH)
    }
    made(tmp_path, *(f"d{level}" for level in range(DEPTH)), spool_id(99))
    assert set(find_spools(tmp_path)) == expected


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = made(tmp_path, "outside", "node_0", "rank_0", spool_id(1))
    root = made(tmp_path, "root", "node_0")
    (root / "rank_0").symlink_to(outside.parent)
    made(root, "rank_1")
    (root / "rank_1" / spool_id(2)).symlink_to(outside)
    (root / "rank_1" / "loop").symlink_to(root)
    assert list(find_spools(tmp_path / "root")) == []


def test_what_lies_inside_a_spool_is_not_another_one(tmp_path: Path) -> None:
    outer = made(tmp_path, spool_id(1))
    made(outer, spool_id(2))
    assert list(find_spools(tmp_path)) == [outer]


@pytest.mark.parametrize(
    "name",
    [
        "20240102T030405-1-0000000",
        "20240102T030405-1-000000000",
        "20240102T030405-1-0000000G",
        "20240102T030405-1-0000000A",
        "20240102T030405-x-00000000",
        "20240102-1-00000000",
        ".20240102T030405-1-00000000",
        "20240102T030405-1-00000000\n",
        "\u0662\u0660240102T030405-1-00000000",
        "spool",
    ],
)
def test_an_odd_name_is_no_spool_but_may_hold_one(tmp_path: Path, name: str) -> None:
    inner = made(tmp_path, name, spool_id(1))
    assert list(find_spools(tmp_path)) == [inner]


def test_a_name_that_is_no_utf8_is_passed_through(tmp_path: Path) -> None:
    inner = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")) / spool_id(1)
    inner.mkdir(parents=True)
    assert list(find_spools(tmp_path)) == [inner]


def test_a_file_of_a_spools_name_is_none(tmp_path: Path) -> None:
    (tmp_path / spool_id(1)).write_text("")
    assert list(find_spools(tmp_path)) == []


def test_a_root_that_is_not_there_or_no_folder_has_none(tmp_path: Path) -> None:
    assert list(find_spools(tmp_path / "nowhere")) == []
    (tmp_path / "file").write_text("")
    assert list(find_spools(tmp_path / "file")) == []


def test_a_folder_that_goes_away_during_the_walk_costs_nothing_else(tmp_path: Path) -> None:
    first = made(tmp_path, "a", spool_id(1))
    made(tmp_path, "b", spool_id(2))
    last = made(tmp_path, "c", spool_id(3))
    walk = find_spools(tmp_path)
    assert next(walk) == first
    (tmp_path / "b" / spool_id(2)).rmdir()
    (tmp_path / "b").rmdir()
    assert list(walk) == [last]
