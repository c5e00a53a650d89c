"""What the service logs: fields on every line, a line for each change and none for each request."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import shipper
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.faulty_receiver import Answer, FaultyReceiver
from tests.kit.shipping import goodbye, spool, step
from tests.kit.spools import PATIENCE_SECONDS, environment, identity

SOURCES = sorted(
    path
    for path in Path(shipper.__file__).parent.rglob("*.py")
    # The local receiver is a tool to try things out, with the log of one.
    if "receiver" not in path.parts and "logging.getLogger(" in path.read_text(encoding="utf-8")
)
SAYING = {"debug", "info", "warning", "error", "exception", "critical"}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


def calls(path: Path) -> Iterator[ast.Call]:
    """Every call of a logger in a file, `say(...)` for one that was chosen before included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute) and called.attr in SAYING:
            owner = called.value
            if isinstance(owner, ast.Name) and owner.id in ("log", "_log"):
                yield node
        elif isinstance(called, ast.Name) and called.id == "say":
            yield node


def test_every_line_of_the_service_says_what_it_is_about() -> None:
    found = [(path, call) for path in SOURCES for call in calls(path)]
    assert len(found) > 15
    for path, call in found:
        assert any(keyword.arg == "extra" for keyword in call.keywords), f"{path}:{call.lineno}"


def run(tmp_path: Path, receiver: FaultyReceiver, *more: str) -> list[str]:
    flags = ["--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state")]
    done = lens_ship("run", "--once", "--processor-url", receiver.url, *flags, *more)
    assert done.code == 0, done.err
    return done.err.splitlines()


def test_at_info_no_request_has_a_line(tmp_path: Path, receiver: FaultyReceiver) -> None:
    who = identity(workload_uid="w")
    spool(tmp_path / "spool", [*(step(number) for number in range(400)), goodbye()], who=who)
    lines = run(tmp_path, receiver, "--batch-max-steps", "2", "--log-format", "json")
    assert len(receiver.seen) >= 200
    told = [json.loads(line) for line in lines]
    assert len(told) <= 5
    (shipping,) = [one for one in told if one.get("spool")]
    assert shipping["spool"] == who.spool
    assert shipping["workload"] == "w"
    assert shipping["level"] == "info"


def test_a_receiver_that_comes_and_goes_leaves_few_lines_and_the_last_state(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    who = identity(workload_uid="w")
    spool(tmp_path / "spool", [*(step(number) for number in range(40)), goodbye()], who=who)
    for _ in range(4):
        receiver.then(Answer(status=503, headers=(("Retry-After", "0"),)))
        receiver.then(Answer(status=200, body=OK))
    lines = run(tmp_path, receiver, "--batch-max-steps", "2", "--log-format", "json")
    told = [json.loads(line) for line in lines]
    by_subject = Counter((one["msg"].split(":")[0], one.get("reason")) for one in told)
    down = [one for one in told if "data is kept" in one["msg"]]
    up = [one for one in told if "sink resumed" in one["msg"]]
    assert [one.get("suppressed", 0) for one in down] == [0, 2], by_subject
    assert [one.get("suppressed", 0) for one in up] == [0, 2], by_subject
    assert told.index(up[-1]) > told.index(down[-1]), "the log ends on how it stands"


OK = {"meta": {"code": 2000, "message": "OK"}, "data": {}, "tracing": None}


def test_a_name_from_elsewhere_cannot_forge_a_line(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    evil = "w\n<0>forged line\x1b[2J"
    spool(tmp_path / "spool", [step(1), goodbye()], who=identity(workload_uid=evil))
    lines = run(tmp_path, receiver)
    assert any(r'"w\\n<0>forged line\\x1b[2J"' in line for line in lines)
    assert all(line.isprintable() and not line.startswith("<0>") for line in lines)


def test_into_the_journal_lines_have_priorities(tmp_path: Path, receiver: FaultyReceiver) -> None:
    """Standard error is a pipe here; the variable says that this very pipe is the journal's."""
    script = (
        "import os, sys; found = os.fstat(2);"
        "os.environ['JOURNAL_STREAM'] = f'{found.st_dev}:{found.st_ino}';"
        "from shipper.cli import main; main()"
    )
    (tmp_path / "spool").mkdir()
    flags = ["--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state")]
    ours = [name for name in os.environ if name.startswith("LENS_SHIP_")]
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "--once", *flags],
        env=environment(**dict.fromkeys(ours)),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("<6>") for line in lines), lines


def test_a_misspelt_variable_is_a_line_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    flags = ["--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state")]
    service = start_lens_ship("run", *flags, "--log-format", "json", LENS_SHIP_BACTH_MAX_STEPS="3")
    assert service.stderr is not None
    first = json.loads(service.stderr.readline())
    service.terminate()
    service.communicate(timeout=PATIENCE_SECONDS)
    assert first["level"] == "warning"
    assert "did you mean LENS_SHIP_BATCH_MAX_STEPS?" in first["detail"]
