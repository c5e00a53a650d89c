"""Reports arrive at DLRover's real master, over both of its transports, and nothing is made up."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from shipper.audit.account import Account
from shipper.audit.audit import run_audit
from shipper.ledger.ledger import Ledger
from shipper.service import ship_once
from spooler.records import run
from spooler.records.report import FIELDS
from tests.kit import master as kit
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.master import Master, needs_master, numbers, report
from tests.kit.running import failing, is_told, ship_until
from tests.kit.shipping import Record, config, goodbye, killed, spool, step

pytestmark = needs_master

XPU = "XPU_TIMER_METRIC"
KINDS = ("TRAINING_LOG", XPU, "STACK_TRACE")


@pytest.fixture(scope="module", params=["grpc", "http"])
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One master for all tests that let it live; each looks only at what came since it began."""
    with kit.running(tmp_path_factory.mktemp(request.param), request.param) as one:
        yield one


class Since:
    """A master, seen from the beginning of a test."""

    def __init__(self, master: Master) -> None:
        self.master = master
        self._before = len(master.stored())

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.master.stored()[self._before :]


@pytest.fixture
def master(shared: Master) -> Since:
    return Since(shared)


def job(root: Path, master: Master, records: list[Record], salt: int = 1, **who: Any) -> Path:
    """A spool of a job of this master."""
    known = {"master_addr": master.address, "master_service": master.service, **who}
    return spool(root / "spool", records, who=spools.identity(spools.spool_id(salt), **known))[0]


def account(root: Path) -> Account:
    """The master's side of the account of the only spool there is."""
    ledger = Ledger(root / "state", exclusive=False)
    try:
        (one,) = run_audit(ledger, root / "spool", ["master"])
    finally:
        ledger.close()
    assert one.balances, one
    return one


@pytest.mark.promise("G18")
def test_every_kind_arrives_whole_and_in_order_with_exactly_its_fields(
    tmp_path: Path, master: Since
) -> None:
    records = [report(n, KINDS[n % 3]) for n in range(30)]
    job(tmp_path, master.master, [("run", run.EXAMPLE), *records, goodbye()])
    assert ship_once(config(tmp_path), timeout=60) == []
    assert master.rows == [{n: v for n, v in body.items() if n != "time"} for _, body in records]
    assert set(master.rows[0]) == set(FIELDS)
    told = account(tmp_path)
    assert (told.delivered, told.skipped, told.pending) == (30, 2, 0)


@pytest.mark.parametrize(
    "text",
    ["", "日志 ✓ 🙂\n", "a\r\n\x00\x1b[31m", '"\\/', "\ud800 alone", "x" * 300, "\u2028line\x85"],
    ids=ascii,
)
def test_text_arrives_as_it_is(tmp_path: Path, master: Since, text: str) -> None:
    job(tmp_path, master.master, [report(1, data_content=text, node_type="工作", node_rank=-1)])
    assert ship_once(config(tmp_path), timeout=60) == []
    (row,) = master.rows
    assert (row["data_content"], row["node_type"], row["node_rank"]) == (text, "工作", -1)


@pytest.mark.parametrize("data_type", ["TRAINING_LOG", "STACK_TRACE"])
def test_a_long_text_is_cut_at_the_ends_of_lines_into_messages_of_the_largest_size(
    tmp_path: Path, master: Since, data_type: str
) -> None:
    text = "".join(f"{n} 行 {'x' * (n % 90)}\n" for n in range(200_000))
    job(tmp_path, master.master, [report(1, data_type, data_content=text)])
    assert ship_once(config(tmp_path), timeout=60) == []
    pieces = [row["data_content"] for row in master.rows]
    assert "".join(pieces) == text
    assert all(piece.endswith("\n") for piece in pieces)
    sizes = [len(json.dumps(piece, ensure_ascii=False).encode()) for piece in pieces]
    assert all(4_000_000 < size < 4 * 1024 * 1024 for size in sizes[:-1]), sizes
    assert len(sizes) > 1
    assert account(tmp_path).delivered == 1


def test_a_line_without_room_is_cut_between_characters(tmp_path: Path, master: Since) -> None:
    text = "é🙂" * 1500 + "\nend\n"
    job(tmp_path, master.master, [report(1, data_content=text)])
    assert ship_once(config(tmp_path, dlrover_message_bytes=2048), timeout=60) == []
    assert len(master.rows) > 1
    assert "".join(row["data_content"] for row in master.rows) == text


@pytest.mark.promise("G19")
def test_a_sample_is_never_cut_the_one_that_is_too_large_is_a_dead_letter(
    tmp_path: Path, master: Since
) -> None:
    large = "metric 1\n" * 600_000
    job(tmp_path, master.master, [report(1, XPU, data_content=large), report(2, XPU)])
    assert ship_once(config(tmp_path), timeout=60) == []
    assert numbers(master.rows) == [2]
    assert account(tmp_path).dead_letters == 1


def test_the_largest_sample_that_fits_arrives(tmp_path: Path, master: Since) -> None:
    job(tmp_path, master.master, [report(1, XPU, data_content="m" * (4 * 1024 * 1024 - 700))])
    assert ship_once(config(tmp_path), timeout=60) == []
    assert len(master.rows) == 1


BAD = {
    "milliseconds": {"timestamp": int(time.time() * 1000)},
    "nothing": {"timestamp": None},
    "text": {"timestamp": str(int(time.time()))},
    "nan": {"timestamp": float("nan")},
    "infinity": {"timestamp": float("inf")},
    "negative": {"timestamp": -1},
    "long ago": {"timestamp": 99},
    "future": {"timestamp": int(time.time()) + 86400},
    "boolean": {"timestamp": True},
    "type": {"data_type": {"a": 1}},
    "no type": {"data_type": ""},
    "bytes": {"data_content": b"raw"},
    "node": {"node_id": "3"},
    "rank": {"node_rank": None},
    "flag": {"is_final_result": 0},
}


@pytest.mark.promise("G19")
@pytest.mark.parametrize("bad", sorted(BAD))
def test_what_would_poison_the_master_is_kept_from_it(
    tmp_path: Path, master: Since, bad: str
) -> None:
    job(tmp_path, master.master, [report(1, **BAD[bad]), report(2)])
    assert ship_once(config(tmp_path), timeout=60) == []
    assert numbers(master.rows) == [2]
    assert account(tmp_path).dead_letters == 1


@pytest.mark.parametrize("given", [0, 0.0, "float"])
def test_a_timestamp_that_can_be_told_is_made_whole_seconds(
    tmp_path: Path, master: Since, given: Any
) -> None:
    now = time.time()
    kind, body = report(1, timestamp=now if given == "float" else given)
    job(tmp_path, master.master, [(kind, {**body, "time": now})])
    assert ship_once(config(tmp_path), timeout=60) == []
    (row,) = master.rows
    assert row["timestamp"] == int(now)
    assert isinstance(row["timestamp"], int)


@pytest.mark.promise("G19")
def test_what_is_too_old_for_a_master_is_given_up_and_counted(
    tmp_path: Path, master: Since
) -> None:
    now = int(time.time())
    old = [report(n, KINDS[n % 3], timestamp=now - 601) for n in range(3)]
    job(tmp_path, master.master, [*old, report(9, timestamp=now - 500)])
    assert ship_once(config(tmp_path), timeout=60) == []
    assert numbers(master.rows) == [9]
    told = account(tmp_path)
    assert (told.delivered, told.dropped_by_policy) == (1, {"expired": 3})


def test_told_otherwise_it_is_sent_whatever_its_age(tmp_path: Path, master: Since) -> None:
    job(tmp_path, master.master, [report(1, timestamp=int(time.time()) - 5000)])
    assert ship_once(config(tmp_path, dlrover_max_age=0), timeout=60) == []
    assert numbers(master.rows) == [1]


def test_a_process_that_died_is_told_as_a_line_of_log(tmp_path: Path, master: Since) -> None:
    known = {"master_addr": master.master.address, "master_service": master.master.service}
    killed(tmp_path / "spool", [step(7, run="r"), report(1)], **known)
    given = config(tmp_path, processor_url="http://127.0.0.1:9/v1")
    for _ in range(2):
        ship_until(given, lambda service: failing(service) and is_told(service, "master"))
    first, note = master.rows
    assert numbers([first]) == [1]
    assert "exited uncleanly; last step 7 of run r" in note["data_content"]
    assert note["data_type"] == "TRAINING_LOG"


def test_one_service_serves_several_jobs_with_several_masters(
    tmp_path: Path, shared: Master
) -> None:
    with kit.running(tmp_path / "other", shared.service) as other:
        before = len(shared.stored())
        for salt, one in enumerate((shared, other, shared)):
            job(tmp_path, one, [report(salt, KINDS[n]) for n in range(3)], salt)
        assert ship_once(config(tmp_path), timeout=60) == []
        assert numbers(other.stored()) == [1, 1, 1]
        assert sorted(numbers(shared.stored()[before:])) == [0, 0, 0, 2, 2, 2]


def test_the_operators_master_goes_before_the_recorded_one(tmp_path: Path, master: Since) -> None:
    one = master.master
    job(tmp_path, one, [report(1)], master_addr="127.0.0.1:9", master_service="ray")
    given = config(tmp_path, dlrover_address=one.address, dlrover_protocol=one.service)
    assert ship_once(given, timeout=60) == []
    assert numbers(master.rows) == [1]


def test_the_master_that_a_program_has_named_is_the_one_of_its_reports(
    tmp_path: Path, master: Since
) -> None:
    kind, body = report(1)
    named = (kind, {**body, "master": master.master.address})
    job(tmp_path, master.master, [named, report(2)], master_addr="")
    assert ship_once(config(tmp_path), timeout=60) == []
    assert numbers(master.rows) == [1, 2]
    assert "master" not in master.rows[0]


@pytest.mark.parametrize("host", ["[::1]", "::1", "localhost"])
def test_other_ways_to_write_an_address(tmp_path: Path, master: Since, host: str) -> None:
    address = f"{host}:{master.master.port}"
    job(tmp_path, master.master, [report(1)], master_addr=address)
    assert ship_once(config(tmp_path), timeout=60) == []
    assert numbers(master.rows) == [1]


def test_a_proxy_in_the_environment_is_passed_by(
    tmp_path: Path, master: Since, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    job(tmp_path, master.master, [report(1)])
    assert ship_once(config(tmp_path), timeout=60) == []
    assert numbers(master.rows) == [1]
    job(tmp_path, master.master, [report(2)], salt=2)
    assert ship_until(config(tmp_path, dlrover_proxy="environment"), failing) != []


@pytest.mark.promise("G19")
def test_reports_without_a_master_hold_nothing_up_and_are_counted(tmp_path: Path) -> None:
    spool(tmp_path / "spool", [report(n) for n in range(3)])
    assert ship_once(config(tmp_path), timeout=60) == []
    assert account(tmp_path).dropped_by_policy == {"no-master": 3}


def test_reports_without_a_master_wait_for_one_when_told_so(tmp_path: Path, master: Since) -> None:
    spool(tmp_path / "spool", [report(1)])
    others = ("processor", "processor-detection")
    (pending,) = ship_until(
        config(tmp_path, dlrover_wait_for_endpoint=600),
        lambda service: failing(service) and all(is_told(service, name) for name in others),
    )
    assert "no-master" in pending
    one = master.master
    given = config(
        tmp_path,
        dlrover_address=one.address,
        dlrover_protocol=one.service,
        dlrover_wait_for_endpoint=600,
    )
    assert ship_once(given, timeout=60) == []
    assert numbers(master.rows) == [1]


def test_the_audit_says_what_was_not_sent_and_why(tmp_path: Path, master: Since) -> None:
    old = int(time.time()) - 700
    job(tmp_path, master.master, [report(1), report(2, timestamp=old), goodbye()])
    assert ship_once(config(tmp_path), timeout=60) == []
    told = lens_ship(
        "audit", "--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state")
    )
    assert told.code == 0, told.out
    assert "dropped by policy: 1 expired" in told.out
