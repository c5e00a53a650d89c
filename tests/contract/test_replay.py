"""Replay: the ordinary way out with another source, which knows what it has sent."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shipper.cli.replay import timestamp
from shipper.config.schema import Config
from shipper.delivery.readable import Records
from shipper.ledger.ledger import Ledger, Receipt
from shipper.replay.find import Places
from shipper.replay.plan import ReplayPart, ReplayRequest, make_plan
from shipper.replay.send import ReplayContext, carry_out, receipt_of
from shipper.replay.source import Selection, records_in
from shipper.service import ship_once
from shipper.sinks import DEFAULT, build_sinks, enabled_sinks
from shipper.sinks.processor.classify import NO_IDENTITY
from spooler.errors import SpoolDamaged
from spooler.spool.reader import Stored
from tests.kit.command import Ran, lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, FaultyReceiver, Normal
from tests.kit.processor import queries
from tests.kit.processor.answers import enveloped
from tests.kit.running import failing, ship_until
from tests.kit.shipping import config, detection, finish, goodbye, spool, step
from tests.kit.spools import identity, spool_id

pytestmark = pytest.mark.promise("G13")


STEPS = 20


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        yield receiver


def settings(tmp_path: Path, receiver: FaultyReceiver, **more: Any) -> Config:
    return config(tmp_path, processor_url=receiver.url, batch_max_steps=4, **more)


def deliver(tmp_path: Path, receiver: FaultyReceiver) -> None:
    records = [detection(), *(step(number) for number in range(STEPS)), goodbye()]
    spool(tmp_path / "spool", records)
    assert ship_once(settings(tmp_path, receiver), timeout=60) == []


def plan(tmp_path: Path, ledger: Ledger, **wish: Any) -> list[ReplayPart]:
    where = {"root": tmp_path / "spool"}
    where |= {name: wish.pop(name) for name in ("paths", "workload_uid") if name in wish}
    places = Places(**where, whole=wish.get("resend_delivered", False))
    every = build_sinks(enabled_sinks(config(tmp_path)))
    sinks = {name: every[name] for name in wish.pop("sinks", DEFAULT)}
    plan = make_plan(ReplayRequest(places=places, sinks=sinks, **wish), ledger)
    assert plan.problems == []
    return plan.sending


def replay(
    tmp_path: Path, receiver: FaultyReceiver, *, stop_after: int = 10**9, **wish: Any
) -> list[Receipt]:
    """Plan and send; stopped once so many records have gone out."""
    given = settings(tmp_path, receiver)
    stop, sent = threading.Event(), [0]

    def delivered(part: ReplayPart, records: int) -> None:
        sent[0] += records
        if sent[0] >= stop_after:
            stop.set()

    with closing(Ledger(given.state, exclusive=False, create=True)) as ledger:
        means = ReplayContext(
            ledger=ledger,
            config=given,
            sinks=build_sinks(enabled_sinks(given)),
            now=time.monotonic,
            stop=stop,
            rate=1e6 if stop_after < 10**9 else None,
        )
        parts = plan(tmp_path, ledger, **wish)
        receipts = carry_out(parts, means, delivered)
        if len(receipts) == len(parts):
            ledger.end_replays(receipts)
        return receipts


def state(receiver: FaultyReceiver) -> dict[int, Any]:
    return dict(arrived(receiver.store, "w").steps)


def test_a_part_that_cannot_be_read_any_more_holds_up_no_other_and_is_gone_on_with(
    tmp_path: Path,
    receiver: FaultyReceiver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    who = [identity(spool_id(salt), workload_uid=f"w{salt}") for salt in (1, 2)]
    steps = [step(number) for number in range(STEPS)]
    elsewhere = tmp_path / "elsewhere"
    directories = [spool(elsewhere, [*steps, goodbye()], who=one)[0] for one in who]
    really = records_in

    def torn(source: Records) -> Iterator[Stored]:
        if source.directory == directories[0]:
            raise SpoolDamaged(str(source.directory), 0, "disk I/O error")
        return really(source)

    with monkeypatch.context() as patched:
        patched.setattr("shipper.replay.send.records_in", torn)
        receipts = replay(tmp_path, receiver, paths=(elsewhere,))
    assert {receipt.spool for receipt in receipts} == {directories[1].name}
    assert "disk I/O error" in str(caplog.records[-1].__dict__)
    assert "source failed, its remaining records were not sent" in caplog.text
    again = replay(tmp_path, receiver, paths=(elsewhere,))
    assert {receipt.spool for receipt in again} == {one.name for one in directories}


def test_what_is_delivered_is_not_sent_again_unless_asked(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    deliver(tmp_path, receiver)
    before = len(queries.requests(receiver.store))
    assert replay(tmp_path, receiver) == []
    assert len(queries.requests(receiver.store)) == before
    receipts = replay(tmp_path, receiver, resend_delivered=True)
    assert sorted(receipt.records for receipt in receipts) == [1, STEPS]
    assert len(queries.requests(receiver.store)) == 2 * before


def test_twice_the_same_replay_leaves_the_same_values_and_the_live_position(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    deliver(tmp_path, receiver)
    before = state(receiver)
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        live = [row for row in ledger.positions() if row["sink"] in DEFAULT]
    one, other = (
        replay(tmp_path, receiver, resend_delivered=True),
        replay(tmp_path, receiver, resend_delivered=True),
    )
    assert state(receiver) == before
    assert [receipt.digest for receipt in one] == [receipt.digest for receipt in other]
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        assert [row for row in ledger.positions() if row["sink"] in DEFAULT] == live


def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, receiver: FaultyReceiver) -> None:
    deliver(tmp_path, receiver)
    before = len(queries.requests(receiver.store))
    sinks = ("processor",)
    assert replay(tmp_path, receiver, resend_delivered=True, sinks=sinks, stop_after=8) == []
    (receipt,) = replay(tmp_path, receiver, resend_delivered=True, sinks=sinks)
    assert receipt.records == STEPS
    assert len(queries.requests(receiver.store)) == before + STEPS // 4, "nothing was sent twice"


def test_what_is_done_of_a_replay_is_not_done_again_when_it_goes_on(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    deliver(tmp_path, receiver)
    before = len(queries.requests(receiver.store))
    assert [
        r.records for r in replay(tmp_path, receiver, resend_delivered=True, stop_after=STEPS)
    ] == [STEPS]
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        assert {row["ended"] for row in ledger.replays()} == {None}, "there is a second part"
    assert [r.records for r in replay(tmp_path, receiver, resend_delivered=True)] == [STEPS, 1]
    assert len(queries.requests(receiver.store)) == 2 * before


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(first_step=5, last_step=8), 4),
        (Selection(run="r", kind="step"), STEPS),
        (Selection(run="r", kind="report"), 0),
        (Selection(kind="detection"), 1),
        (Selection(since=1700000015.0, kind="step"), 5),
        (Selection(until=1700000003.0, kind="step"), 4),
        (Selection(workload="w", kind="step"), STEPS),
        (Selection(workload="another"), 0),
    ],
)
def test_only_what_is_selected_goes_out(
    tmp_path: Path, receiver: FaultyReceiver, selection: Selection, expected: int
) -> None:
    deliver(tmp_path, receiver)
    receipts = replay(tmp_path, receiver, resend_delivered=True, selection=selection)
    assert sum(receipt.records for receipt in receipts) == expected


def test_a_run_is_named_by_its_id_or_by_the_beginning_of_no_other(tmp_path: Path) -> None:
    records = [step(number, run=run) for run in ("ab", "abc", "b1") for number in range(2)]
    spool(tmp_path / "spool", [*records, goodbye()])
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))

    def chosen(run: str) -> tuple[int, str]:
        sink = ("--sink", "otlp=http://127.0.0.1:1")
        done = lens_ship("replay", "--dry-run", "--run", run, *places, *sink)
        return done.code, " ".join(done.out.split())

    for given, run in (("ab", "ab"), ("b", "b1")):
        code, out = chosen(given)
        assert (code, f"1 run without an end: {run}." in out) == (0, True), out
    assert chosen("a") == (
        1,
        "nothing found to replay not replayed: several runs begin with a: ab, abc",
    )
    assert chosen("x") == (1, "nothing found to replay not replayed: no run begins with x")


def test_steps_that_a_later_process_has_written_are_left_alone(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    first = identity(spool_id(0), workload_uid="w", created=1.0)
    second = identity(spool_id(1), workload_uid="w", created=2.0)
    spool(tmp_path / "spool", [*(step(n, v=1.0) for n in range(6)), goodbye()], who=first)
    assert ship_once(settings(tmp_path, receiver), timeout=60) == []
    spool(tmp_path / "spool", [*(step(n, v=2.0) for n in range(4, 9)), goodbye()], who=second)
    assert ship_once(settings(tmp_path, receiver), timeout=60) == []
    newest = state(receiver)
    replay(tmp_path, receiver, resend_delivered=True)
    assert state(receiver) == newest
    parts: list[ReplayPart] = []
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        parts = plan(tmp_path, ledger, resend_delivered=True, overwrite_newer=True)
        kept = plan(tmp_path, ledger, resend_delivered=True)
    assert [part.records for part in parts] == [6, 5]
    assert [(part.records, part.overwriting) for part in kept] == [(4, 2), (5, 0)]


def test_a_later_run_with_names_of_its_own_has_written_no_step_of_others(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    for process, run in enumerate("aba"):
        who = identity(spool_id(process), workload_uid="w", created=float(process))
        records = [step(n, run=run, v=float(process)) for n in range(process, 6)]
        for _, body in records if run == "b" else ():
            body["run_prefix"] = True
        spool(tmp_path / "spool", [*records, goodbye()], who=who)
        assert ship_once(settings(tmp_path, receiver), timeout=60) == []
    newest = state(receiver)
    assert newest[5].keys() >= {"v", "run-b/v"}
    replay(tmp_path, receiver, resend_delivered=True)
    assert state(receiver) == newest
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        kept = plan(tmp_path, ledger, resend_delivered=True)
    assert [(part.records, part.overwriting) for part in kept] == [(2, 4), (5, 0), (4, 0)]


def test_the_steps_of_a_replay_are_those_that_the_receiver_shows(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    """Each process counts its calls from 0, and logs the step of the training."""
    for process, steps in enumerate((range(0, 60, 10), range(40, 90, 10))):
        who = identity(spool_id(process), workload_uid="w", created=float(process))
        records = [step(n, v=process, global_step=at) for n, at in enumerate(steps)]
        spool(tmp_path / "spool", [*records, goodbye()], who=who)
        assert ship_once(settings(tmp_path, receiver), timeout=60) == []
    assert sorted(state(receiver)) == [*range(0, 90, 10)]
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        kept = plan(tmp_path, ledger, resend_delivered=True)
        middle = Selection(first_step=20, last_step=50)
        some = plan(tmp_path, ledger, resend_delivered=True, selection=middle)
    assert [(part.records, part.overwriting, part.steps) for part in kept] == [
        (4, 2, (0, 30)),
        (5, 0, (40, 80)),
    ]
    assert sum(part.records for part in some) == 4


def test_a_file_of_the_older_exporter_is_sent_once_and_grows(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    file = tmp_path / "old" / "node_0" / "rank_0" / "wandb_metrics.jsonl"
    file.parent.mkdir(parents=True)

    def write(first: int, last: int) -> None:
        with file.open("a", encoding="utf-8") as out:
            for number in range(first, last):
                entry = {"timestamp": 1.7e9 + number, "step": number, "data": {"loss": number / 2}}
                out.write(json.dumps(entry) + "\n")

    write(0, 7)
    wish = {"paths": (tmp_path / "old",), "workload_uid": "w", "sinks": ("processor",)}
    replay(tmp_path, receiver, **wish)
    assert state(receiver) == {number: {"loss": number / 2} for number in range(7)}
    assert replay(tmp_path, receiver, **wish) == []
    write(7, 15)
    assert replay(tmp_path, receiver, stop_after=1, **wish) == []
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        assert [row["ended"] for row in ledger.replays()] == [None], "the receipt is void by now"
    replay(tmp_path, receiver, **wish)
    assert state(receiver) == {number: {"loss": number / 2} for number in range(15)}
    assert not arrived(receiver.store, "w").repeated


def test_the_command_needs_a_root_for_spools_alone(tmp_path: Path) -> None:
    """What the service has delivered of a spool is known by where the service finds it."""
    file = tmp_path / "old" / "wandb_metrics.jsonl"
    file.parent.mkdir()
    file.write_text('{"timestamp": 1.7e9, "step": 1, "data": {"loss": 1.0}}\n')
    directory, _ = spool(tmp_path / "root", [step(1)])
    plan = ("replay", "--dry-run", "--as-workload", "w", "--state", str(tmp_path / "state"))

    foreign = lens_ship(*plan, str(file.parent), LENS_SHIP_SPOL="x")
    alone = lens_ship(*plan, str(directory))
    below = lens_ship(*plan, str(directory), "--spool", str(tmp_path / "root"))
    nothing = lens_ship(*plan)

    assert (foreign.code, below.code, alone.code, nothing.code) == (0, 0, 1, 2)
    assert "did you mean LENS_SHIP_SPOOL?" in foreign.err
    assert "give --spool ROOT" in " ".join(alone.out.split())
    assert "no spool root: give --spool DIR" in nothing.err


def test_a_receipt_can_be_checked_against_the_source(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    deliver(tmp_path, receiver)
    receipts = replay(tmp_path, receiver, resend_delivered=True, sinks=("processor",))
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        kept = [row["digest"] for row in ledger.replays()]
        (part,) = plan(tmp_path, ledger, resend_delivered=True, sinks=("processor",))
    assert kept == [receipt.digest for receipt in receipts] == [receipt_of(part).digest]


def test_what_has_nowhere_to_go_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    """Once, the command waited for ever for an address that could not come."""
    spool(tmp_path / "elsewhere", [step(1), goodbye()])
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    planned = lens_ship("replay", "--dry-run", *places, str(tmp_path / "elsewhere"))
    assert planned.code == 0
    assert "1 source without an address" in planned.out
    refused = lens_ship("replay", *places, str(tmp_path / "elsewhere"))
    assert refused.code == 2
    assert "have an address: set processor_url" in refused.err


def exporter_file(tmp_path: Path, count: int = 7) -> Path:
    file = tmp_path / "old" / "node_0" / "rank_0" / "wandb_metrics.jsonl"
    file.parent.mkdir(parents=True)
    lines = (
        {"timestamp": 1.7e9 + number, "step": number, "data": {"loss": number / 2}}
        for number in range(count)
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def run_replay(tmp_path: Path, receiver: FaultyReceiver, *more: str) -> Ran:
    places = ("--state", str(tmp_path / "state"), "--processor-url", receiver.url)
    return lens_ship("replay", str(tmp_path / "old"), *places, *more)


def test_a_source_without_a_workload_is_reported_before_anything_is_sent(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    exporter_file(tmp_path)
    planned, sent = run_replay(tmp_path, receiver, "--dry-run"), run_replay(tmp_path, receiver)
    assert (planned.code, sent.code) == (1, 2)
    assert "give --as-workload or --as-pod" in " ".join(planned.out.split())
    assert "give --as-workload or --as-pod" in sent.err
    assert queries.requests(receiver.store) == []

    given = run_replay(tmp_path, receiver, "--as-workload", "w")
    assert given.code == 0, given.err
    assert state(receiver) == {number: {"loss": number / 2} for number in range(7)}


def test_rejected_records_are_an_error_and_are_sent_again(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    exporter_file(tmp_path)
    named = ("--as-workload", "w")
    receiver.otherwise = Answer(
        status=400, body=enveloped(status=400, code=4000, message=NO_IDENTITY, data={}).body
    )
    first = run_replay(tmp_path, receiver, *named)
    assert first.code == 1
    assert "sent 0 records" in first.out
    assert "7 records rejected" in " ".join(first.out.split())
    second = run_replay(tmp_path, receiver, *named)
    assert (second.code, "7 records rejected" in " ".join(second.out.split())) == (1, True)

    receiver.otherwise = Normal()
    third = run_replay(tmp_path, receiver, *named)
    assert third.code == 0, third.out
    assert state(receiver) == {number: {"loss": number / 2} for number in range(7)}
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        assert {row["state"] for row in ledger.dead_letters()} == {"delivered"}
    before = len(queries.requests(receiver.store))
    assert run_replay(tmp_path, receiver, *named).code == 0
    assert len(queries.requests(receiver.store)) == before


def test_an_outage_that_ends_is_told_like_its_beginning(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    exporter_file(tmp_path)
    receiver.then(Answer(status=503))
    done = run_replay(tmp_path, receiver, "--as-workload", "w", "--sink", "processor")
    assert done.code == 0, done.out + done.err
    said = [line for line in done.err.splitlines() if "sink=processor" in line]
    assert ["sink paused" in line for line in said] == [True, False]
    assert "sink resumed" in said[1]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1769862600", 1769862600.0),
        ("1769862600.5", 1769862600.5),
        ("2026-01-31T12:30", 1769862600.0),
        ("2026-01-31 12:30:00", 1769862600.0),
        ("2026-01-31T12:30:00Z", 1769862600.0),
        ("2026-01-31T13:30+01:00", 1769862600.0),
        ("2026-01-31", 1769817600.0),
    ],
)
def test_a_time_is_iso_8601_or_unix_seconds(text: str, seconds: float) -> None:
    assert timestamp(text) == seconds


@pytest.mark.parametrize("text", ["yesterday", "nan", "inf", "", "2026-13-01"])
def test_another_text_is_not_a_time(text: str) -> None:
    done = lens_ship("replay", ".", "--since", text)
    assert done.code == 2
    assert "is not a time such as" in done.err


@pytest.mark.parametrize("root", ["below", "by a link", "away"])
def test_a_copy_of_a_spool_that_is_shipped_moves_no_live_position(
    root: str, tmp_path: Path, receiver: FaultyReceiver
) -> None:
    """To another receiver; once, production then got nothing of it, and the audit balanced."""
    records = [*(step(number) for number in range(STEPS)), goodbye()]
    directory, _ = spool(tmp_path / "spool", records)
    receiver.go_away()
    assert ship_until(settings(tmp_path, receiver), failing) != []
    receiver.come_back()
    backup = tmp_path / "backup" / directory.name
    shutil.copytree(directory, backup)
    given = tmp_path / "spool"
    if root == "by a link":
        (tmp_path / "link").symlink_to(given)
        given = tmp_path / "link"
    elif root == "away":
        given.rename(tmp_path / "away")
    places = ("--spool", str(given), "--state", str(tmp_path / "state"))

    with FaultyReceiver(path=tmp_path / "other.sqlite") as other:
        command = ("replay", *places, "--processor-url", other.url, str(backup))
        ran = lens_ship(*command)
        assert ran.code == 1
        assert "which the service ships: its pending records" in " ".join(ran.out.split()), ran.out
        assert not arrived(other.store, "w").steps
        assert lens_ship(*command, "--resend-delivered").code == 0
        assert sorted(arrived(other.store, "w").steps) == list(range(STEPS))

    if root == "away":
        (tmp_path / "away").rename(given)
    assert ship_once(settings(tmp_path, receiver), timeout=60) == []
    assert sorted(state(receiver)) == list(range(STEPS)), "the service sends all of it all the same"


def test_what_is_gone_undelivered_is_replayed_from_a_backup(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    records = [*(step(number) for number in range(STEPS)), goodbye()]
    directory, _ = spool(tmp_path / "spool", records)
    receiver.go_away()
    assert ship_until(settings(tmp_path, receiver), failing) != []
    receiver.come_back()
    backup = tmp_path / "backup" / directory.name
    backup.parent.mkdir()
    directory.rename(backup)
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    assert lens_ship("audit", *places).code == 1
    assert lens_ship("replay", *places, "--processor-url", receiver.url, str(backup)).code == 0
    assert sorted(state(receiver)) == list(range(STEPS))
    done = lens_ship("audit", "--json", *places)
    sums = json.loads(done.out)["totals"]["processor"]
    assert (sums["delivered"], sums["unaccounted"]) == (STEPS, 0)


@pytest.mark.parametrize("named", [{}, {"pod_name": "gone"}])
def test_dead_letters_without_a_workload_are_sent_for_the_one_that_is_given(
    tmp_path: Path, receiver: FaultyReceiver, named: dict[str, str]
) -> None:
    """Once they counted as delivered, and a pod that the processor does not know stayed theirs."""
    directory, _ = spool(
        tmp_path / "spool",
        [*(step(number) for number in range(STEPS)), finish(), goodbye()],
        who=identity(spool_id(), **named),
    )
    receiver.otherwise = Answer(
        status=400, body=enveloped(status=400, code=4000, message=NO_IDENTITY, data={}).body
    )
    assert ship_once(settings(tmp_path, receiver), timeout=60) == []
    receiver.otherwise = Normal()
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    command = ("replay", str(directory), *places, "--processor-url", receiver.url)

    plain = lens_ship(*command)
    assert (plain.code, f"{STEPS} dead letters left out" in plain.out) == (0, True), plain.out
    given = lens_ship(*command, "--as-workload", "w")
    assert (given.code, "without an end" in given.out) == (0, False), given.out + given.err
    assert sorted(state(receiver)) == list(range(STEPS))
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        assert {row["state"] for row in ledger.dead_letters()} == {"delivered"}
    before = len(queries.requests(receiver.store))
    assert lens_ship(*command, "--as-workload", "w").code == 0
    assert len(queries.requests(receiver.store)) == before
