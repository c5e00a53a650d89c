"""A client of the operator's own: what it is given, and what its answers and failures mean."""

from __future__ import annotations

import json
import sys
import time
import types
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from shipper.audit.account import Account
from shipper.audit.audit import run_audit
from shipper.errors import ConfigError
from shipper.ledger.ledger import Ledger
from shipper.service import ship_once
from shipper.sinks.dlrover.custom_client import CustomClientSession
from shipper.sinks.dlrover.report import read
from shipper.sinks.dlrover.session import JobNode
from shipper.sinks.outcome import Disposition
from spooler.records import decision, failure
from spooler.records.report import FIELDS
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.master import numbers, report
from tests.kit.shipping import Record, config, spool

XPU = "XPU_TIMER_METRIC"
NOBODY = JobNode(node_id=0, node_type="worker", job_uid="")


class Client:
    """Remembers what it is given; a script says what it does with each."""

    made: ClassVar[list[Client]] = []

    def __init__(self, master_addr: str = "") -> None:
        self.address = master_addr
        self.got: list[Any] = []
        self.script: list[Any] = []
        self.closed = False
        Client.made.append(self)

    def report_diagnosis_agent_metrics(self, metric: Any) -> Any:
        self.got.append(metric)
        answer = self.script.pop(0) if self.script else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An importable module with a client, and with what makes one."""
    made = types.ModuleType("clients_of_a_test")
    made.Client = Client  # type: ignore[attr-defined]
    made.make = lambda: Client()  # type: ignore[attr-defined]
    made.one = Client()  # type: ignore[attr-defined]
    made.nothing = 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, made.__name__, made)
    Client.made.clear()
    return made


def ship(root: Path, name: str = "one", timeout: float = 60, **more: Any) -> list[str]:
    return ship_once(
        config(root, dlrover_client=f"clients_of_a_test:{name}", **more), timeout=timeout
    )


def account(root: Path) -> Account:
    with closing(Ledger(root / "state", exclusive=False)) as ledger:
        (one,) = run_audit(ledger, root / "spool", ["master"])
    assert one.balances
    return one


def rows(client: Client) -> list[dict[str, Any]]:
    return [json.loads(metric.to_json()) for metric in client.got]


def test_it_is_given_dlrover_s_attributes_and_json(tmp_path: Path, module: Any) -> None:
    kind, body = report(1, XPU)
    spool(tmp_path / "spool", [(kind, body)])
    assert ship(tmp_path) == []
    (metric,) = module.one.got
    assert type(metric).__name__ == "WorkerTrainingMetric", "clients send the name along"
    assert {name: getattr(metric, name) for name in FIELDS} == {n: body[n] for n in FIELDS}
    assert rows(module.one) == [{n: body[n] for n in FIELDS}]
    assert account(tmp_path).delivered == 1


def test_a_maker_is_given_the_address_and_makes_one_for_each_master(
    tmp_path: Path, module: Any
) -> None:
    for salt, address in enumerate(("a:1", "b:2", "a:1")):
        who = spools.identity(spools.spool_id(salt), master_addr=address)
        spool(tmp_path / "spool", [report(salt)], who=who)
    assert ship(tmp_path, "Client") == []
    assert sorted((c.address, sorted(numbers(rows(c)))) for c in Client.made) == [
        ("a:1", [0, 2]),
        ("b:2", [1]),
    ]
    assert all(client.closed for client in Client.made)


def test_a_maker_without_that_parameter_is_called_without(tmp_path: Path, module: Any) -> None:
    spool(tmp_path / "spool", [report(1)])
    assert ship(tmp_path, "make") == []
    assert [numbers(rows(client)) for client in Client.made] == [[1]]


@pytest.mark.promise("G19")
@pytest.mark.parametrize(
    ("error", "data_type", "times"),
    [
        (OSError("gone"), XPU, 1),
        (ConnectionRefusedError("nobody"), XPU, 2),
        (OSError("gone"), "TRAINING_LOG", 2),
    ],
)
def test_what_it_raises_is_tried_again_where_that_does_no_harm(
    tmp_path: Path, module: Any, error: Exception, data_type: str, times: int
) -> None:
    module.one.script = [error]
    spool(tmp_path / "spool", [report(1, data_type), report(2)])
    assert ship(tmp_path) == []
    assert numbers(rows(module.one)) == [1] * times + [2]
    assert account(tmp_path).dropped_by_policy == ({"ambiguous": 1} if times == 1 else {})


def test_false_is_a_no_that_is_believed_after_some_times() -> None:
    client = Client()
    client.script = [False, False, False]
    talk = CustomClientSession("", client, time.monotonic)
    one = read(report(1)[1])
    outcomes = [talk.report(one, ["{}"], NOBODY).outcome for _ in range(4)]
    assert [outcome.disposition for outcome in outcomes] == [
        Disposition.RETRY,
        Disposition.RETRY,
        Disposition.PERMANENT,
        Disposition.DELIVERED,
    ]


def test_too_old_is_too_old_for_any_master(tmp_path: Path, module: Any) -> None:
    spool(tmp_path / "spool", [report(1, timestamp=int(time.time()) - 601)])
    assert ship(tmp_path) == []
    assert module.one.got == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("clients_of_a_test:missing", "AttributeError"),
        ("no_such_module_at_all:x", "ModuleNotFoundError"),
        ("clients_of_a_test:nothing", "makes nothing"),
    ],
)
def test_one_that_cannot_be_had_ends_the_service_at_its_start(
    tmp_path: Path, module: Any, place: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        ship_once(config(tmp_path, dlrover_client=place), timeout=1)


def test_the_command_line_says_so_without_a_traceback(tmp_path: Path) -> None:
    done = lens_ship(
        *("run", "--once", "--spool", str(tmp_path / "s"), "--state", str(tmp_path / "t")),
        *("--dlrover-client", "no_such_module_at_all:Client"),
    )
    assert done.code == 2
    assert "--dlrover-client no_such_module_at_all:Client" in done.err
    assert "Traceback" not in done.err


class Whole(Client):
    """Has the other methods of DLRover's client, too."""

    def report_failures(self, error_data: str, restart_count: int = -1, level: str = "") -> None:
        self.got.append((error_data, restart_count, level))

    def report_event(self, **event: Any) -> None:
        self.got.append(event["msg"])


def failed(**more: Any) -> list[Record]:
    """A failure and a decision of now: older ones expire."""
    return [
        ("failure", {**failure.EXAMPLE, "time": time.time(), **more}),
        ("decision", {**decision.EXAMPLE, "time": time.time()}),
    ]


def test_failures_and_decisions_go_to_the_methods_of_dlrover_s_client(
    tmp_path: Path, module: Any
) -> None:
    module.whole = Whole()
    spool(tmp_path / "spool", failed())
    assert ship(tmp_path, "whole") == []
    reported, event = module.whole.got
    assert reported == (failure.EXAMPLE["error_data"], 1, "process_error")
    assert event == f"RESTART_WORKER: {decision.EXAMPLE['reason']}"
    assert account(tmp_path).delivered == 2


def test_a_client_without_these_methods_is_given_none(tmp_path: Path, module: Any) -> None:
    spool(tmp_path / "spool", failed())
    assert ship(tmp_path) == []
    assert module.one.got == []
    assert account(tmp_path).dropped_by_policy == {"unsupported": 2}


@pytest.mark.promise("G19")
def test_a_failure_that_is_too_large_for_a_message_is_a_dead_letter(
    tmp_path: Path, module: Any
) -> None:
    module.whole = Whole()
    spool(tmp_path / "spool", [*failed(error_data="x" * 2000), *failed()])
    assert ship(tmp_path, "whole", dlrover_message_bytes=1024) == []
    assert len(module.whole.got) == 3
    assert account(tmp_path).dead_letters == 1
