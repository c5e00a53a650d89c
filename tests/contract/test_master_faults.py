"""The real master dies, freezes, restarts, refuses, or its answers get lost: nothing is made up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shipper.audit.account import Account
from shipper.audit.audit import run_audit
from shipper.config.schema import Config
from shipper.errors import Unreachable
from shipper.ledger.ledger import Ledger
from shipper.service import Service, ship_once
from shipper.sinks import PlanInput
from shipper.sinks.dlrover import encode
from shipper.sinks.dlrover.report import read
from shipper.sinks.dlrover.session import JobNode, Session, Timeouts, Transport
from shipper.sinks.dlrover.sink import DLRoverSink
from shipper.sinks.options import from_settings
from shipper.sinks.outcome import Disposition, Outcome
from spooler.spool import owner
from spooler.spool.identity import Identity
from tests.kit import master as kit
from tests.kit import spools
from tests.kit.master import Master, Wire, metric, needs_master, numbers, report, wait_for
from tests.kit.ports import reserved_port
from tests.kit.running import is_told
from tests.kit.shipping import Record, append, config, goodbye, spool, stored

pytestmark = needs_master

XPU = "XPU_TIMER_METRIC"
KINDS = ("TRAINING_LOG", XPU, "STACK_TRACE")
# For an answer that comes, and for one that never does.
PATIENT = {"read_timeout": spools.PATIENCE_SECONDS, "connect_timeout": spools.PATIENCE_SECONDS}
QUICK = {"read_timeout": 1.0, "connect_timeout": 1.0}
NOBODY = JobNode(node_id=1, node_type="worker", job_uid="")


@pytest.fixture(params=["grpc", "http"])
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def master(tmp_path: Path, service: str) -> Iterator[Master]:
    with kit.running(tmp_path / "master", service) as one:
        yield one


def whose(address: str, service: str, salt: int = 1, **more: Any) -> Identity:
    return spools.identity(
        spools.spool_id(salt), master_addr=address, master_service=service, **more
    )


def job(root: Path, address: str, service: str, records: list[Record], **more: Any) -> None:
    spool(root / "spool", records, who=whose(address, service, **more))


def account(root: Path) -> Account:
    with closing(Ledger(root / "state", exclusive=False)) as ledger:
        (one,) = run_audit(ledger, root / "spool", ["master"])
    assert one.balances, one
    return one


class Sending:
    """A sink, and the batches of some reports."""

    def __init__(self, settings: Config, who: Identity, *records: Record) -> None:
        self.who = who
        self.sink = DLRoverSink("master", from_settings(DLRoverSink.Options, settings), {})
        chunk = PlanInput(identity=who, records=stored(*records), ended=True)
        self.batches = self.sink.plan(chunk).batches

    def send(self, place: int = 0) -> Outcome:
        """As a route does it: look first."""
        batch: Any = self.batches[place]
        greeting = self.sink.handshake(batch, self.who, "lens-ship/test")
        return greeting.outcome or self.sink.send(batch, self.who, 1)


@contextmanager
def serving(settings: Config) -> Iterator[Service]:
    """The service at work in a thread."""
    service = Service(settings)
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        yield service
    finally:
        service.stop()
        thread.join(spools.PATIENCE_SECONDS)
        assert not thread.is_alive()


# --- answers --------------------------------------------------------------------------------------


def dial(master: Master) -> Transport:
    seconds = spools.PATIENCE_SECONDS
    patience = Timeouts(connect_seconds=seconds, answer_seconds=seconds, proxy="")
    return transport_of(master.service, master.address, patience)


def transport_of(service: str, address: str, patience: Timeouts) -> Transport:
    if service == "http":
        from shipper.sinks.dlrover.http_transport import HttpTransport

        return HttpTransport(address, patience)
    from shipper.sinks.dlrover.grpc_transport import GrpcTransport

    return GrpcTransport(address, patience)


@pytest.mark.promise("G19")
def test_an_exception_in_the_master_is_a_dead_letter_after_one_try(master: Master) -> None:
    """A field too many is one way to have one; `test_master` shows that none is ever sent."""
    talk = Session(master.address, lambda: dial(master), time.monotonic)
    sent = talk.report(read({"time": time.time(), **metric(1)}), ['{"a": 1}'], NOBODY)
    assert (sent.outcome.disposition, sent.outcome.reason) == (
        Disposition.PERMANENT,
        "master-error",
    )
    talk.close()


@pytest.mark.promise("G19")
def test_a_no_is_neither_delivered_nor_tried_for_ever(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = Session(master.address, lambda: dial(master), time.monotonic)
    monkeypatch.setattr(encode, "report_data", lambda *_: b"\x80\x04no pickle.")
    one = read({"time": time.time(), **metric(1)})
    outcomes = [talk.report(one, ["{}"], NOBODY).outcome for _ in range(3)]
    assert [(o.disposition, o.reason, o.needs_operator) for o in outcomes] == [
        (Disposition.RETRY, "refused", True),
        (Disposition.RETRY, "refused", True),
        (Disposition.PERMANENT, "refused", True),
    ]
    talk.close()


@pytest.mark.skipif(kit.is_older(), reason="masters before 0.6.0 do not look at the uid")
@pytest.mark.parametrize("recorded", ["uid-b", "uid-a", ""])
def test_a_master_of_another_job_is_told_from_a_broken_one(
    tmp_path: Path, service: str, recorded: str
) -> None:
    with kit.running(tmp_path / "m", service, job_uid="uid-a") as master:
        who = whose(master.address, service, job_uid=recorded)
        sending = Sending(config(tmp_path, **PATIENT), who, report(1))
        outcomes = [sending.send() for _ in range(3)]
        reasons = [(o.disposition, o.reason) for o in outcomes]
        sending.sink.close()
        if recorded == "uid-b":
            retry = (Disposition.RETRY, "wrong-job")
            assert reasons == [retry, retry, (Disposition.PERMANENT, "wrong-job")]
            assert master.stored() == []
        else:
            assert reasons[0] == (Disposition.DELIVERED, "delivered")


def test_more_than_the_master_takes_is_a_dead_letter_that_says_what_to_change(
    tmp_path: Path,
) -> None:
    with kit.running(tmp_path / "m") as master:
        large = report(1, data_content="x\n" * 3_000_000)
        settings = config(tmp_path, dlrover_message_bytes=16 * 1024 * 1024, **PATIENT)
        sending = Sending(settings, whose(master.address, "grpc"), large, report(2))
        outcome = sending.send()
        assert (outcome.disposition, outcome.reason) == (Disposition.PERMANENT, "too-large")
        assert "--dlrover-message-bytes" in outcome.detail
        assert sending.send(1).disposition is Disposition.DELIVERED
        sending.sink.close()


def test_the_wrong_kind_of_master_is_no_delivery_and_no_doubt(
    tmp_path: Path, master: Master
) -> None:
    given = "http" if master.service == "grpc" else "grpc"
    sending = Sending(config(tmp_path, **QUICK), whose(master.address, given), report(1, XPU))
    for _ in range(3):
        outcome = sending.send()
        assert (outcome.disposition, outcome.ambiguous) == (Disposition.RETRY, False)
        assert outcome.detail
    sending.sink.close()
    assert master.stored() == []


@pytest.mark.parametrize("where", ["refused", "mute", "no-such-host.invalid:1", "host"])
def test_nobody_there_keeps_everything(tmp_path: Path, service: str, where: str) -> None:
    with Wire(reserved_port(), mute=True) as mute:
        places = {"refused": f"127.0.0.1:{reserved_port()}", "mute": mute.address}
        settings = config(tmp_path, read_timeout=0.5, connect_timeout=0.5)
        sending = Sending(settings, whose(places.get(where, where), service), report(1, XPU))
        outcome = sending.send()
        assert (outcome.disposition, outcome.ambiguous) == (Disposition.RETRY, False), outcome
        assert outcome.reason
        sending.sink.close()


@pytest.mark.parametrize("where", ["refused", "mute", "no-such-host.invalid:1", "host"])
def test_what_was_not_connected_was_not_sent(service: str, where: str) -> None:
    """Whatever words the transport has for it."""
    with Wire(reserved_port(), mute=True) as mute:
        places = {"refused": f"127.0.0.1:{reserved_port()}", "mute": mute.address}
        patience = Timeouts(connect_seconds=0.5, answer_seconds=0.5, proxy="")
        transport = transport_of(service, places.get(where, where), patience)
        message = encode.Message(node_id=0, node_type="worker", data=b"")
        with pytest.raises(Unreachable) as failed:
            transport.report(message, "")
        # Over HTTP a connection is all that there is before the message.
        assert failed.value.sent is (service == "http" and where == "mute")
        transport.close()


def test_without_grpcio_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "grpc", None)
    monkeypatch.delitem(sys.modules, "shipper.sinks.dlrover.grpc_transport", raising=False)
    outcome = Sending(config(tmp_path), whose("127.0.0.1:9", "grpc"), report(1)).send()
    assert (outcome.disposition, outcome.needs_operator) == (Disposition.RETRY, True)
    assert "pip install 'lens-ship[service]'" in outcome.detail


# --- no answer ------------------------------------------------------------------------------------


@pytest.mark.promise("G19")
def test_a_sample_whose_answer_is_lost_is_not_sent_twice_a_log_is(
    tmp_path: Path, master: Master
) -> None:
    for number, data_type in enumerate(KINDS):
        root = tmp_path / data_type
        with Wire(master.port) as torn:
            job(
                root, torn.address, master.service, [report(number, data_type), report(10 + number)]
            )
            # What is asked first: who is there, to keep a token, and then the report.
            torn.lose_answer(3 + kit.MORE_QUESTIONS)
            assert ship_once(config(root, **PATIENT), timeout=60) == []
            assert torn.lost == 1
        times = Counter(numbers(master.stored()))
        told = account(root)
        assert times[10 + number] == 1
        if data_type == XPU:
            assert times[number] == 1
            assert (told.delivered, told.dropped_by_policy) == (1, {"ambiguous": 1})
        else:
            assert times[number] == 2
            assert told.delivered == 2


@pytest.mark.promise("G19")
def test_a_frozen_master_gets_no_sample_twice_and_a_log_at_most_once_more(
    tmp_path: Path, master: Master
) -> None:
    who = whose(master.address, master.service)
    sending = Sending(config(tmp_path, **QUICK), who, report(1, XPU), report(2))

    def answers(batch: Any) -> bool:
        return sending.sink.handshake(batch, who, "lens-ship/test").outcome is None

    for place in (0, 1):
        batch: Any = sending.batches[place]
        wait_for(lambda batch=batch: answers(batch), "it does not answer")
        master.freeze()
        outcome = sending.sink.send(batch, who, 1)
        assert (outcome.disposition, outcome.ambiguous) == (Disposition.RETRY, True)
        for _ in range(3):
            again = sending.send(place)
            assert (again.disposition, again.ambiguous) == (Disposition.RETRY, False), (
                "it was only asked"
            )
        master.thaw()
    doubts = 1  # whether it has the second one

    def arrives() -> bool:
        nonlocal doubts
        outcome = sending.send(1)
        doubts += outcome.ambiguous or outcome.disposition is Disposition.DROPPED
        return outcome.disposition is Disposition.DELIVERED

    wait_for(arrives, "it does not thaw")
    sending.sink.close()
    times = Counter(numbers(master.stored()))
    assert times[1] <= 1
    assert 1 <= times[2] <= 1 + doubts


def test_a_log_without_an_answer_is_given_up_in_the_end(tmp_path: Path, service: str) -> None:
    with kit.running(tmp_path / "m", service) as master, Wire(master.port) as torn:
        sending = Sending(config(tmp_path, **PATIENT), whose(torn.address, service), report(1))
        outcomes = []
        for turn in range(5):
            torn.lose_answer((2 if turn else 3) + kit.MORE_QUESTIONS)
            outcomes.append(sending.send())
        assert [o.disposition for o in outcomes] == [Disposition.RETRY] * 4 + [Disposition.DROPPED]
        assert outcomes[-1].reason == "ambiguous"
        assert len(master.stored()) == 5
        sending.sink.close()


# --- restarts -------------------------------------------------------------------------------------


@pytest.mark.promise("G18")
def test_a_restarted_master_is_told_again_what_it_forgot_before_anything_newer(
    tmp_path: Path, master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    restart_between(tmp_path, master, 0, monkeypatch)


@pytest.mark.promise("G14")
@pytest.mark.parametrize("days", [1, -1])
def test_it_is_told_again_however_far_the_clock_of_the_service_is_off(
    tmp_path: Path, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP: grpcio gives wall times of Python to its core, which has another clock here."""
    with kit.running(tmp_path / "m", "http") as master:
        restart_between(tmp_path, master, days, monkeypatch)


def restart_between(
    tmp_path: Path, master: Master, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ship, restart the master, and ship what is new; the service's clock is `days` ahead."""
    clock, now = time.time, int(time.time())
    ages = [0, 650, 500, 100, 0, 0]
    kind, _ = report(0)
    records = [
        (
            kind,
            {
                "time": float(now - age),
                "monotonic": max(time.monotonic() - age, 0.0),
                **metric(n, KINDS[n % 3], timestamp=now - age),
            },
        )
        for n, age in enumerate(ages)
    ]
    who = whose(master.address, master.service, boot_id=owner.boot_id())
    directory, writer = spool(tmp_path / "spool", records, who=who, close=False)
    monkeypatch.setattr(time, "time", lambda: clock() + days * 86400)
    assert ship_once(config(tmp_path), timeout=60) == []
    assert numbers(master.stored()) == [0, 2, 3, 4, 5]
    master.kill()
    master.start()
    kind, body = report(6, XPU, timestamp=int(clock()))
    append(writer, [(kind, {**body, "time": clock()})])
    writer.close()
    assert ship_once(config(tmp_path), timeout=60) == []
    assert numbers(master.stored()) == [0, 2, 3, 4, 5, 6]
    told = account(tmp_path)
    assert (told.delivered, told.resent, told.dropped_by_policy) == (6, 5, {"expired": 1})
    assert directory.exists()


@pytest.mark.promise("G18")
def test_what_a_later_restart_forgets_is_told_again_too(tmp_path: Path, service: str) -> None:
    with kit.running(tmp_path / "m", service) as master:
        _, writer = spool(
            tmp_path / "spool", [report(0, XPU)], who=whose(master.address, service), close=False
        )
        for number in range(1, 4):
            assert ship_once(config(tmp_path), timeout=60) == []
            assert numbers(master.stored()) == list(range(number))
            master.kill()
            master.start()
            append(writer, [report(number, XPU)])
        assert ship_once(config(tmp_path), timeout=60) == []
        assert numbers(master.stored()) == [0, 1, 2, 3]
        assert account(tmp_path).resent == 1 + 2 + 3
        writer.close()


@pytest.mark.promise("G18")
def test_a_restart_is_noticed_while_there_is_nothing_to_send(
    tmp_path: Path, master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DLRoverSink, "probe_interval", 0.1)
    job(tmp_path, master.address, master.service, [report(n, XPU) for n in range(3)] + [goodbye()])
    with serving(config(tmp_path, flush_interval=0.1)) as service:
        # An answer that the first one owes would make its report a delivery to the second one.
        wait_for(
            lambda: len(master.stored()) == 3 and is_told(service, "master"), "nothing arrives"
        )
        master.kill()
        master.start()
        wait_for(lambda: len(master.stored()) == 3, "the restart is not noticed")
    assert numbers(master.stored()) == [0, 1, 2]
    assert account(tmp_path).resent == 3


@pytest.mark.promise("G19")
def test_a_sample_in_doubt_is_sent_when_the_one_that_may_have_it_is_gone(
    tmp_path: Path, master: Master
) -> None:
    """Its answer is lost, and before anybody is asked again the master restarts."""
    with Wire(master.port) as torn:
        who = whose(torn.address, master.service)
        spool(tmp_path / "spool", [report(1, XPU), report(2, XPU)], who=who)
        torn.lose_answer(3 + kit.MORE_QUESTIONS, then=master.kill)
        with serving(config(tmp_path, **PATIENT)):
            wait_for(lambda: torn.lost, "no answer gets lost")
            master.start()
            wait_for(lambda: len(master.stored()) == 2, "the new master is not told")
    assert numbers(master.stored()) == [1, 2]
    assert account(tmp_path).delivered == 2


def test_dead_letters_are_not_sent_again_with_what_was_forgotten(
    tmp_path: Path, master: Master
) -> None:
    bad = report(1, timestamp=-5)
    _, writer = spool(
        tmp_path / "spool",
        [report(0), bad, report(2)],
        who=whose(master.address, master.service),
        close=False,
    )
    assert ship_once(config(tmp_path), timeout=60) == []
    master.kill()
    master.start()
    append(writer, [report(3)])
    writer.close()
    assert ship_once(config(tmp_path), timeout=60) == []
    assert numbers(master.stored()) == [0, 2, 3]
    assert account(tmp_path).dead_letters == 1
