"""What lanes tell each other of a spool's contents spares them reading, and changes nothing else.

However kinds lie between each other, whichever lane is in front and however long its stretches:
each sink gets every record of its kinds once and in order, and counts all the others as passed.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from shipper.delivery import pipeline
from shipper.delivery.contents import Contents
from shipper.delivery.pipeline import Route, Together
from shipper.delivery.shared import Recent, SharedReader
from shipper.ledger.ledger import Ledger
from shipper.sinks import Batch, Plan, PlanInput
from shipper.sinks.outcome import Outcome
from spooler.spool.identity import Identity
from spooler.spool.stored import Chunk, Damage, Stored
from tests.kit import spools
from tests.kit.shipping import DELIVERED, Clock, Record, append, config, retry

WHO = spools.identity(workload_uid="w")
KINDS = ["step", "step", "step", "detection", "report", "gap"]


class KindSink:
    """Takes the records of some kinds, one by one; refuses now and then, as drawn."""

    def __init__(self, name: str, kinds: frozenset[str] | None, answers: list[bool]) -> None:
        self.name = name
        self.kinds = kinds
        self.answers = answers
        self.got: list[int] = []

    def plan(self, chunk: PlanInput) -> Plan:
        return Plan(batches=tuple(Batch(seqs=(one.seq,), payload=None) for one in chunk.records))

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        if self.answers and not self.answers.pop():
            return retry()
        self.got.append(batch.first)
        return DELIVERED


def record(kind: str) -> Record:
    told = {"reason": "disk-full", "count": 3, "first": 0.0, "last": 1.0}
    return kind, {"time": 1.0, **(told if kind == "gap" else {})}


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=24),
    later=st.lists(st.sampled_from(KINDS), max_size=8),
    turns=st.lists(st.integers(-1, 2), max_size=30),
    stretch=st.integers(1, 6),
    answers=st.lists(st.booleans(), max_size=6),
)
def test_each_sink_gets_its_kinds_once_and_passes_the_rest(
    kinds: list[str], later: list[str], turns: list[int], stretch: int, answers: list[bool]
) -> None:
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as place,
        mock.patch.object(pipeline, "READ_RECORDS", stretch),
    ):
        settings = config(Path(place))
        settings.spool.mkdir()
        writer = spools.writer(settings.spool, who=WHO, segment_records=5)
        append(writer, [record(kind) for kind in kinds])
        ledger, recent, lock = Ledger(settings.state), Recent(clock), threading.Lock()
        sinks = [
            KindSink("all", None, list(answers)),
            KindSink("detections", frozenset({"detection"}), list(answers)),
            KindSink("reports", frozenset({"report"}), []),
        ]

        def start() -> list[Route]:
            """As a service that has just started: it knows positions, and no contents."""
            contents, routes = Contents(), []
            together = Together(ledger=ledger, config=settings, contents=contents)
            for sink in sinks:
                reader = SharedReader(
                    writer.directory, writer.directory, recent=recent, contents=contents, lock=lock
                )
                reader.is_owned = lambda: True  # type: ignore[method-assign]
                routes.append(
                    Route(reader=reader, identity=WHO, sink=sink, together=together)  # type: ignore[arg-type]
                )
            return routes

        def turn(route: Route, seconds: float) -> bool:
            until = clock.now + seconds
            return route.turn(now=clock, until=until, owned=True, flush_all=False).at_end

        routes = start()
        for which in turns:
            if which < 0:
                routes = start()
            else:
                turn(routes[which], 0.0)
        append(writer, [record(kind) for kind in later])
        recent.renew(writer.directory.name)
        clock.pass_by(1.0)
        for route in routes:
            while not turn(route, 1e9):
                pass
        writer.close()
        every = [*kinds, *later]
        for sink, route in zip(sinks, routes, strict=True):
            taken = sink.kinds or set(KINDS)
            expected = [seq for seq, kind in enumerate(every, 1) if kind in taken]
            assert sink.got == expected
            assert route.position.seq == len(every)
            row = next(r for r in ledger.positions() if r["sink"] == sink.name)
            assert (row["delivered"], row["passed"]) == (len(expected), len(every) - len(expected))
        ledger.close()


def test_one_lane_reads_for_another(tmp_path: Path) -> None:
    """Two sinks that want neither read what lies between only once."""
    directory, _ = spools.fill(tmp_path, 40)
    contents = Contents()
    reader = SharedReader(
        directory, directory, recent=Recent(Clock()), contents=contents, lock=threading.Lock()
    )
    reads = [reader.read(after, 10).through for after in range(0, 40, 10)]
    spool = directory.name
    assert reads == [10, 20, 30, 40]
    assert contents.without(spool, 0, {"detection"}) == 40
    assert contents.without(spool, 17, {"detection"}) == 40
    assert contents.without(spool, 40, {"detection"}) == 40
    assert contents.without(spool, 0, {"step", "detection"}) == 0
    assert contents.without("another", 0, {"detection"}) == 0


def test_only_what_was_read_and_sound_is_known() -> None:
    contents, step = Contents(), (Stored(3, "step", b""),)
    damage = (Damage(path="p", first=1, last=2, reason="checksum"),)
    contents.note("s", 0, Chunk(records=step, damage=damage, through=3, at_end=False))
    assert contents.without("s", 0, {"detection"}) == 0
    contents.note("s", 2, Chunk(records=step, damage=(), through=3, at_end=False))
    contents.note("s", 7, Chunk(records=step, damage=(), through=8, at_end=False))
    assert contents.without("s", 2, {"detection"}) == 3, "4 to 7 were never read"
    assert contents.without("s", 7, {"detection"}) == 8
