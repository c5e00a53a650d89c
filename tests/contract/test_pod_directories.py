"""Isolation by folders: the name of a pod's folder decides whose telemetry is delivered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shipper.retention.quota import DiskQuota
from shipper.service import ship_once
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.shipping import config, goodbye, spool, step

HONEST = "0b5c2f7e-6a5d-4a3e-9c11-1f4a7d2e8b90"
LIAR = "7d1e4c9a-2b3f-4e5d-8a6b-0c9d8e7f6a5b"
STATIC = "4f2d9c1b8a7e6d5c4b3a29180f7e6d5c"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        yield receiver


def pods(receiver: FaultyReceiver) -> dict[str, set[str]]:
    """Workload -> the pods that its steps were said to come from."""
    found: dict[str, set[str]] = {}
    for seen in receiver.seen:
        if seen.body and seen.body.get("metrics") is not None:
            found.setdefault(seen.body["workload_uid"], set()).add(seen.body["pod_uid"])
    return found


def put(root: Path, *, salt: int, workload: str, claims: str) -> Path:
    who = spools.identity(spools.spool_id(salt), workload_uid=workload, pod_uid=claims)
    directory, _ = spool(root, [step(1), goodbye()], who=who)
    return directory


def test_the_folder_counts_and_not_what_a_spool_says(
    tmp_path: Path, receiver: FaultyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "spool"
    put(root / HONEST, salt=1, workload="a", claims=HONEST)
    put(root / LIAR, salt=2, workload="b", claims=HONEST)
    put(root / STATIC, salt=3, workload="c", claims="")
    given = config(tmp_path, processor_url=receiver.url, pod_directories=True)
    assert ship_once(given, timeout=60) == []
    assert pods(receiver) == {"a": {HONEST}, "b": {LIAR}, "c": {STATIC}}
    (warning,) = [r for r in caplog.records if "spool claims another pod" in r.getMessage()]
    assert (warning.fields["claimed"], warning.fields["pod"]) == (HONEST, LIAR)


def test_without_the_setting_what_a_spool_says_counts(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    put(tmp_path / "spool" / LIAR, salt=1, workload="b", claims=HONEST)
    assert ship_once(config(tmp_path, processor_url=receiver.url), timeout=60) == []
    assert pods(receiver) == {"b": {HONEST}}


@pytest.mark.parametrize("below", [(), ("not-a-pod",), ("node_0",)])
def test_a_spool_in_no_pods_folder_is_left_and_said(
    below: tuple[str, ...], tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = put((tmp_path / "spool").joinpath(*below), salt=1, workload="x", claims=HONEST)
    given = config(tmp_path, processor_url=receiver.url, pod_directories=True)
    (line,) = ship_once(given, timeout=60)
    assert str(directory) in line
    assert "is not in a pod's directory" in line
    assert pods(receiver) == {}
    assert (directory / "00000001.sqlite").exists()


def test_a_replay_takes_the_folder_for_it_too(tmp_path: Path, receiver: FaultyReceiver) -> None:
    root = tmp_path / "spool"
    put(root / LIAR, salt=2, workload="b", claims=HONEST)
    given = config(tmp_path, processor_url=receiver.url, pod_directories=True)
    assert ship_once(given, timeout=60) == []
    ran = lens_ship(
        "replay",
        "--resend-delivered",
        *("--spool", str(root), "--state", str(given.state), "--processor-url", receiver.url),
        LENS_SHIP_POD_DIRECTORIES="true",
    )
    assert ran.code == 0, ran.err
    assert len([seen for seen in receiver.seen if seen.body]) >= 2
    assert pods(receiver) == {"b": {LIAR}}


@pytest.mark.promise("G11")
def test_every_pod_sees_that_the_root_is_full(tmp_path: Path) -> None:
    for name in (HONEST, LIAR, "not-a-pod"):
        (tmp_path / name).mkdir()
    room = DiskQuota(tmp_path, 1, by_pod=True)
    room.set_full(full=True)
    marked = {path.parent.name for path in tmp_path.rglob("full")}
    assert marked == {tmp_path.name, HONEST, LIAR}
    writer = spools.writer(tmp_path / LIAR)
    try:
        writer.maintain()
        assert writer._refusal == "root-cap"
        room.set_full(full=False)
        writer.maintain()
        assert writer._refusal == ""
    finally:
        writer.close()
    assert list(tmp_path.rglob("full")) == []
