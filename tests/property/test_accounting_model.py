"""Whatever happens in whatever order: the account balances, nothing is lost, order is kept.

A machine writes, rotates, ends and kills training processes; starts, stops and kills the service,
also in the middle of a request; answers requests with every class of fault; fills disks, damages
and deletes files, moves the wall clock by days, retries and drops dead letters, and replays. After
every step the account of every spool is taken; whenever all is at rest, what the receiver holds is
compared with what was written.

`make model` runs ten thousand examples, `make test` a few dozen: LENS_SHIP_TEST_MODEL of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shipper.config.load import load
from shipper.replay.find import Places
from shipper.replay.plan import ReplayRequest, make_plan
from shipper.replay.rejected import RetryContext, retry_letters
from shipper.replay.send import ReplayContext, carry_out
from shipper.sinks import build_sinks, enabled_sinks
from spooler.errors import SpoolUnavailable
from spooler.spool import codec
from spooler.spool.segments import Segments
from spooler.spool.writer import Writer
from tests.kit import shipping, spools
from tests.kit.delivery import arrived
from tests.kit.node import FAULTS, URL, Killed, Node

pytestmark = pytest.mark.promise("G17")

DAY = 86400.0
EXAMPLES = int(os.environ.get("LENS_SHIP_TEST_MODEL", "40"))


@dataclass(kw_only=True)
class Written:
    """One spool as the model knows it."""

    workload: str
    directory: Path
    writer: Writer
    alive: bool = True
    closed: bool = False
    steps: dict[int, tuple[int, str]] = field(default_factory=dict)  # seq -> step, metric
    segment: dict[int, int] = field(default_factory=dict)  # seq -> segment
    last: int = 0
    excused: set[int] = field(default_factory=set)  # seqs that damage or a limit may have taken
    harmed: bool = False  # a file was damaged: the account may miss records until that is met
    step: int = 0
    acknowledged: list[tuple[int, str]] = field(default_factory=list)  # step, metric; in order


class Waits:
    """Stands for an event that a replay waits on: time passes instead."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def is_set(self) -> bool:
        return False

    def wait(self, seconds: float) -> bool:
        self._node.clock.pass_by(seconds)
        return False


class Accounting(RuleBasedStateMachine):
    """A node, its training processes, and what must be true of them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="lens-ship-model-"))
        self.spools: list[Written] = []
        self.live = True  # requests are of the service, not of a replay or a retry

    def teardown(self) -> None:
        try:
            if hasattr(self, "node"):
                self.rest()
        finally:
            if hasattr(self, "node"):
                self.node.close()
            for one in self.spools:
                if not one.closed:
                    _close(one.writer)
            shutil.rmtree(self.folder)

    @initialize(
        records=st.integers(2, 6),
        retain=st.sampled_from([0.0, 100.0, 86400.0]),
        root_bytes=st.sampled_from([0, 0, 0, 60_000]),
        when_full=st.sampled_from(["drop-newest", "drop-oldest"]),
        batch=st.integers(1, 4),
    )
    def begin(
        self, records: int, retain: float, root_bytes: int, when_full: str, batch: int
    ) -> None:
        self.records = records
        given = {
            "spool": self.folder / "spool",
            "state": self.folder / "state",
            "processor_url": URL,
            "retention_seconds": retain,
            "root_bytes": root_bytes,
            "when_full": when_full,
            "batch_max_steps": batch,
            "flush_interval": 1.0,
        }
        self.node = Node(self.folder, load(given, {}))
        self.node.config.spool.mkdir()
        self.node.wire.acknowledged = self.note

    # --- the training side ------------------------------------------------------------------------

    @rule(
        max_bytes=st.sampled_from([None, None, None, 40_000]),
        drop_oldest=st.booleans(),
    )
    def open(self, max_bytes: int | None, drop_oldest: bool) -> None:
        if len(self.spools) >= 4:
            return
        workload = f"w{len(self.spools)}"
        who = spools.identity(spools.spool_id(len(self.spools)), workload_uid=workload)
        limits: dict[str, Any] = {"segment_records": self.records, "drop_oldest": drop_oldest}
        if max_bytes is not None:
            limits["max_bytes"] = max_bytes
        writer = spools.writer(self.node.config.spool, who=who, **limits)
        self.node.living.add(writer.directory)
        self.spools.append(Written(workload=workload, directory=writer.directory, writer=writer))

    @precondition(lambda self: any(one.alive for one in self.spools))
    @rule(which=st.integers(0, 9), count=st.integers(1, 6), maintain=st.booleans())
    def log(self, which: int, count: int, maintain: bool) -> None:
        one = self.alive(which)
        for _ in range(count):
            one.step += 1
            body = shipping.step(one.step)[1]
            if self.append(one, "step", body):
                one.steps[one.last] = (one.step, "loss")
        if maintain:
            self.maintain(one)

    @precondition(lambda self: any(one.alive for one in self.spools))
    @rule(which=st.integers(0, 9))
    def log_in_parts(self, which: int) -> None:
        one = self.alive(which)
        one.step += 1
        for closed, name in ((False, "acc"), (True, "loss")):
            body = shipping.step(one.step, closed=closed, **{name: one.step + 0.5})[1]
            if self.append(one, "step", body):
                one.steps[one.last] = (one.step, name)

    @precondition(lambda self: any(one.alive for one in self.spools))
    @rule(
        which=st.integers(0, 9),
        what=st.sampled_from(["detection", "mystery", "too large a step", "no body", "loss"]),
    )
    def log_something_else(self, which: int, what: str) -> None:
        one = self.alive(which)
        if what == "detection":
            self.append(one, *shipping.detection())
        elif what == "mystery":
            self.append(one, "mystery", {"time": 1.0})
        elif what == "too large a step":
            self.append(one, *shipping.step(2**40))
        elif what == "no body":
            self.append(one, "step", None)
        else:
            lost = {"time": 1.0, "reason": "disk-full", "count": 3, "first": 1.0, "last": 2.0}
            self.append(one, "gap", lost)

    @precondition(lambda self: any(one.alive for one in self.spools))
    @rule(which=st.integers(0, 9))
    def rotate(self, which: int) -> None:
        self.maintain(self.alive(which))

    @precondition(lambda self: any(one.alive for one in self.spools))
    @rule(which=st.integers(0, 9), goodbye=st.booleans())
    def end(self, which: int, goodbye: bool) -> None:
        """A process ends: with a goodbye and a sealed spool, or by SIGKILL."""
        one = self.alive(which)
        if goodbye:
            one.writer.ignore_limits()
            self.append(one, "exit", {"time": 1.0, "steps": {}})
            one.writer.close()
            one.closed = True
        one.alive = False
        self.node.living.discard(one.directory)

    # --- the shipping side ------------------------------------------------------------------------

    @rule(
        faults=st.lists(st.sampled_from(FAULTS), max_size=3),
        turns=st.integers(1, 6),
        seconds=st.sampled_from([0.0, 1.0, 30.0, 600.0]),
    )
    def ship(self, faults: list[Any], turns: int, seconds: float) -> None:
        self.node.clock.pass_by(seconds)
        self.node.wire.faults.extend(faults)
        self.node.turns(turns)

    @rule()
    def kill_the_service(self) -> None:
        self.node.kill()

    @rule()
    def stop_the_service(self) -> None:
        self.node.stop()

    @rule(seconds=st.sampled_from([0.0, 200.0, 2 * DAY]))
    def tidy(self, seconds: float) -> None:
        self.node.clock.pass_by(seconds)
        before = self.files()
        self.node.tidy()
        if self.node.config.root_bytes and self.node.config.when_full == "drop-oldest":
            self.excuse_deleted(before)

    @rule()
    def rest(self) -> None:
        """Everything works, and time passes."""
        before = self.files()
        self.node.drain()
        if self.node.config.root_bytes and self.node.config.when_full == "drop-oldest":
            self.excuse_deleted(before)
        self.check_at_rest()

    @precondition(lambda self: self.spools)
    @rule(turns=st.integers(0, 3), tidy=st.booleans(), kill=st.booleans())
    def lose_the_root_for_a_while(self, turns: int, tidy: bool, kill: bool) -> None:
        """It is renamed or unmounted, and comes back as it was."""
        root, away = self.node.config.spool, self.node.folder / "away"
        root.rename(away)
        self.node.clock.pass_by(60.0)
        self.node.turns(turns)
        if tidy:
            self.node.tidy()
        if kill:
            self.node.kill()
        away.rename(root)

    @rule(days=st.sampled_from([-10, 10]))
    def jump(self, days: int) -> None:
        self.node.wall[0] += days * DAY

    # --- damage -----------------------------------------------------------------------------------

    @precondition(lambda self: self.spools)
    @rule(
        which=st.integers(0, 9),
        place=st.integers(0, 9),
        how=st.sampled_from(["zero", "cut", "bit", "page", "foreign", "wal", "shm", "wal bit"]),
        where=st.floats(0, 0.999),
    )
    def damage(self, which: int, place: int, how: str, where: float) -> None:
        one = self.spools[which % len(self.spools)]
        files = [
            path
            for path in sorted(one.directory.glob("*.sqlite"))
            if not one.alive or not Path(f"{path}-wal").exists()
        ]
        if not files:
            return
        path = files[place % len(files)]
        number = int(path.name.split(".")[0])
        one.excused |= {seq for seq, segment in one.segment.items() if segment == number}
        one.harmed = True
        _damage(path, how, where)

    # --- commands ---------------------------------------------------------------------------------

    @rule(newer=st.booleans())
    def retry_dead_letters(self, newer: bool) -> None:
        self.live = False
        # The command may be killed, too: what it has not been told about stays a dead letter.
        with self.node.ledger() as ledger, contextlib.suppress(Killed):
            rows = [row for row in ledger.dead_letters() if row["state"] == "kept"]
            means = RetryContext(
                ledger=ledger,
                config=self.node.config,
                sinks=self.sinks(),
                now=self.node.clock,
                overwrite_newer=newer,
            )
            retry_letters(rows, means)
        self.live = True

    @rule()
    def drop_dead_letters(self) -> None:
        with self.node.ledger() as ledger:
            kept = [row["id"] for row in ledger.dead_letters() if row["state"] == "kept"]
            ledger.resolve_dead_letters(kept[:1], "dropped")

    @rule(again=st.booleans())
    def replay(self, again: bool) -> None:
        self.live = False
        self.node.wire.faults.clear()
        with self.node.ledger() as ledger:
            root = self.node.config.spool
            wish = ReplayRequest(
                places=Places(root=root, whole=again),
                sinks=self.sinks(),
                resend_delivered=again,
            )
            plan = make_plan(wish, ledger)
            means = ReplayContext(
                ledger=ledger,
                config=self.node.config,
                sinks=self.sinks(),
                now=self.node.clock,
                stop=Waits(self.node),  # type: ignore[arg-type]
                rate=None,
            )
            ledger.end_replays(carry_out(plan.sending, means, lambda part, records: None))
        self.live = True

    # --- what must be true ------------------------------------------------------------------------

    @invariant()
    def the_account_balances(self) -> None:
        if not hasattr(self, "node"):
            return
        known = {one.directory.name: one for one in self.spools}
        for account in self.node.accounts():
            one = known[account.spool]
            assert account.difference == 0, account
            assert account.written <= one.last, account
            assert account.pending >= 0, account
            if not one.harmed:
                assert account.unaccounted == 0, account
                assert account.corrupt == 0, account
            if not one.harmed and not one.excused:
                assert account.dropped_by_policy == {}, account

    def check_at_rest(self) -> None:
        dead = self.dead()
        for account in self.node.accounts():
            assert account.balances, account
            assert account.pending == 0, account
        for one in self.spools:
            rows = arrived(self.node.receiver.store, one.workload).steps
            for seq, (step, name) in one.steps.items():
                if seq in one.excused or (one.directory.name, seq) in dead:
                    continue
                assert rows.get(step, {}).get(name) == step + 0.5, (seq, step, name)

    def note(self, path: str, body: Any) -> None:
        """The receiver has said that it has a request, and its sender has heard it."""
        if not self.live or path != "/wandb/metrics":
            return
        one = next(one for one in self.spools if one.workload == body["workload_uid"])
        sent = [
            (metric["step"], metric["name"])
            for metric in body["metrics"]
            if not metric["name"].startswith("lens-ship/")
        ]
        assert not set(sent) & set(one.acknowledged), "sent again what was acknowledged"
        if sent and one.acknowledged:
            assert min(sent)[0] >= one.acknowledged[-1][0], "out of order"
        one.acknowledged += sorted(sent)

    # --- how it is done ---------------------------------------------------------------------------

    def alive(self, which: int) -> Written:
        living = [one for one in self.spools if one.alive]
        return living[which % len(living)]

    def append(self, one: Written, kind: str, body: Any) -> bool:
        packed = codec.pack(body) if body is not None else b"\xc1"
        segment = one.writer._segment.number  # the record that fills it also ends it
        try:
            one.last = one.writer.append(kind, packed)
        except SpoolUnavailable as error:
            if error.reason not in ("cap", "root-cap"):
                raise
            return False
        one.segment[one.last] = segment
        return True

    def maintain(self, one: Written) -> None:
        before = self.files()
        one.writer.maintain()
        for seq in range(one.last + 1, one.writer.last_seq + 1):
            one.segment[seq] = one.writer._segment.number  # a gap that the writer has told
        one.last = one.writer.last_seq
        self.excuse_deleted(before)

    def files(self) -> dict[str, set[int]]:
        return {one.directory.name: set(Segments(one.directory).segments()) for one in self.spools}

    def excuse_deleted(self, before: dict[str, set[int]]) -> None:
        """Segments that were deleted to keep a limit; delivered ones have nothing to excuse."""
        after = self.files()
        for one in self.spools:
            gone = before.get(one.directory.name, set()) - after[one.directory.name]
            one.excused |= {seq for seq, segment in one.segment.items() if segment in gone}

    def dead(self) -> set[tuple[str, int]]:
        with self.node.ledger() as ledger:
            return {(row["spool"], row["seq"]) for row in ledger.dead_letters()}

    def sinks(self) -> Any:
        return build_sinks(enabled_sinks(self.node.config))


def _damage(path: Path, how: str, where: float) -> None:
    if how in ("wal", "shm"):
        Path(f"{path}-{how}").unlink(missing_ok=True)
        if how == "wal":
            Path(f"{path}-shm").unlink(missing_ok=True)
        return
    if how == "wal bit":
        path = Path(f"{path}-wal")
        Path(f"{str(path)[:-4]}-shm").unlink(missing_ok=True)
    if not path.exists():
        return
    raw = bytearray(path.read_bytes())
    at = int(where * len(raw))
    if how == "zero":
        raw = bytearray()
    elif how == "cut":
        raw = raw[:at]
    elif how in ("bit", "wal bit") and raw:
        raw[at] ^= 1 << (at % 8)
    elif how == "page" and raw:
        raw[at - at % 1024 : at - at % 1024 + 1024] = b"\xa5" * 1024
    elif how == "foreign":
        raw = bytearray(b"somebody else's file" * 100)
    draft = path.with_suffix(".draft")  # as a copy that went wrong: open ones keep the old file
    draft.write_bytes(raw)
    draft.replace(path)


def _close(writer: Writer) -> None:
    """Give back what a process that was killed would not have had to."""
    for segment in (*writer._retired, writer._segment, writer._next):
        if segment is not None:
            segment.connection.close()
    writer._owner.release()


TestAccounting = Accounting.TestCase
TestAccounting.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=20,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
