"""Reads what the processes left behind, counts it, and judges."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from shipper.demo.count import (
    LogCall,
    ReceivedData,
    StepCounts,
    TrainingProcess,
    count_steps,
    metric_of,
    steps_in_both,
    total,
)
from shipper.demo.processes import WORKLOAD, DemoFiles
from shipper.demo.scenario import ScenarioResult, Training
from shipper.demo.terminal import Terminal
from shipper.dev_server.store import TelemetryStore
from shipper.discovery.layout import find_spools
from spooler.spool import codec
from spooler.spool.reader import Reader


def report(result: ScenarioResult, files: DemoFiles, terminal: Terminal) -> int:
    """Print the table, the curve and the verdict. Returns the exit code."""
    terminal.stop_progress()
    received = _received(files.received)
    processes = [_process(one, files.spool) for one in (result.first, result.second)]
    counts = [count_steps(process, received) for process in processes]
    both = total(counts)
    names = [process.name for process in processes]
    terminal.table([*zip(names, counts, strict=True), ("both", both)])
    for note in _notes(both, steps_in_both(*processes)):
        terminal.note(note)
    terminal.curve(
        "loss at the receiver (dotted line: training 2 starts)",
        metric_of(received.writes, "loss"),
        result.restart,
    )
    good = result.drained and both.written > 0 and both.is_clean
    terminal.verdict(_verdict(both, result), good=good)
    return 0 if good else 1


def _received(database: Path) -> ReceivedData:
    store = TelemetryStore(database)
    try:
        return ReceivedData(writes=store.writes(WORKLOAD), requests=store.requests())
    finally:
        store.close()


def _process(training: Training, root: Path) -> TrainingProcess:
    """What a training printed, and what the spool of its process holds."""
    training.last_call()
    process = training.process
    spool, run, recorded = "", "", list[LogCall]()
    readers = [Reader(path) for path in find_spools(root)]
    for reader in (one for one in readers if one.identity().pid == process.pid):
        spool = reader.identity().spool
        for stored in chain.from_iterable(chunk.records for chunk in reader.chunks()):
            if stored.kind == "step":
                body = codec.unpack(stored.body)
                run = body["run"]
                recorded.append(LogCall(step=body["step"], data=body["data"], seq=stored.seq))
    return TrainingProcess(
        name=process.name,
        spool=spool,
        run=run,
        written=tuple(training.calls),
        recorded=tuple(recorded),
    )


def _notes(both: StepCounts, trained_twice: int) -> list[str]:
    """What a careful reader of the table may ask."""
    notes = [
        "written: wandb.log has returned. recorded: in the spool.",
        "delivered: at the receiver, every name and value equal.",
    ]
    if trained_twice:
        notes.append(
            f"{trained_twice:,} steps after the checkpoint were trained twice, both count."
        )
    if both.recorded > both.written:
        extra = both.recorded - both.written
        notes.append(f"{extra:,} recorded, but killed before wandb.log returned.")
    if both.duplicated:
        notes.append("duplicated: a process was killed between delivery and acknowledgement.")
    return notes


def _verdict(both: StepCounts, result: ScenarioResult) -> str:
    if not both.written:
        return "Nothing was logged, so nothing is proved."
    if not result.drained:
        return "Not everything was sent: records are still in the spool."
    if not both.is_clean:
        return (
            f"{both.lost:,} steps are lost, {both.changed:,} are changed, {both.disordered:,} are"
            " out of order."
        )
    return (
        f"Nothing is lost: all {both.written:,} steps whose wandb.log returned are at the"
        " receiver, in order, with every name and value as logged."
    )
