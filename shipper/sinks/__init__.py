"""Sinks: where records go.

A sink is one file and one line in `REGISTRY`. It says what of a stretch of a spool it takes and
turns that into batches (`plan`, pure), and sends one batch (`send`), returning an `Outcome`: it
never raises for anything that a receiver or the network does. ``DELIVERED`` means that the receiver
has said that it has the data. One that can tell beforehand whether its receiver is there brings
`probe(identities)`, which returns findings for `lens-ship check` and sends no record. Sinks are
independent: each has its own position in every spool, and none knows another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from shipper.sinks.outcome import Handshake, Outcome
from shipper.steps import Rejected, Skipped, Step
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored

if TYPE_CHECKING:
    # Whoever only wants to know which sinks there are loads no network library.
    from shipper.config.schema import Config
    from shipper.sinks.processor.client import ProcessorClient

REGISTRY: dict[str, str] = {
    "processor": "shipper.sinks.processor.metrics:MetricsSink",
    "processor-detection": "shipper.sinks.processor.detection:DetectionSink",
    "master": "shipper.sinks.dlrover.sink:DLRoverSink",
}


class Batch(Protocol):
    """What a sink sends at once: some records of one run, in order."""

    @property
    def run(self) -> str:
        """The run whose records these are."""

    @property
    def first(self) -> int:
        """Seq of the first record in it."""

    @property
    def last(self) -> int:
        """Seq of the last record in it."""

    @property
    def seqs(self) -> tuple[int, ...]:
        """Seqs of all records in it."""

    @property
    def notes(self) -> Mapping[str, int]:
        """Counts that belong to it once it is delivered: `points`, `nonfinite`, `left_out`."""

    def halves(self) -> tuple[Batch, Batch] | None:
        """Two batches that together are this one, or None when it is the smallest possible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInput:
    """Consecutive records of one spool, read from a sink's position on."""

    identity: Identity
    records: tuple[Stored, ...]
    ahead: Mapping[str, int]  # run -> seq up to which it is settled beyond the position
    ended: bool  # nothing will follow these records
    waited: frozenset[int]  # first seqs of open steps that have been held back long enough
    # Gaps of records that their writer has deleted: seq -> how many of them this sink has not got.
    deleted: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What is to become of a stretch.

    `held` are the first seqs of what must wait for its next part, `passed` the records that this
    sink has no use for. Every record of the stretch is in exactly one of these, or ahead already.
    """

    batches: tuple[Batch, ...]
    held: tuple[int, ...] = ()
    refused: tuple[Rejected, ...] = ()
    passed: tuple[Skipped, ...] = ()


class Sink(Protocol):
    """The contract of a sink; one instance serves all spools and threads.

    `by_workload`: the receiver looks data up by workload, so the workload of a pod is worth asking
    for. `volatile`: the receiver keeps what it acknowledges in memory only, see `VolatileSink`.
    `kinds`: of the records that the sink may send, None for a sink that has to see all records.
    """

    name: str
    kinds: frozenset[str] | None
    by_workload: bool
    volatile: bool

    def ordering_key(self, identity: Identity) -> str:
        """What is sent under one key is sent one at a time."""

    def plan(self, stretch: PlanInput) -> Plan:
        """Turn records into batches. Pure."""

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[Batch, ...]:
        """What to send when a process has died and left runs open at these steps; often nothing."""

    def send(self, batch: Any, identity: Identity, tries: int) -> Outcome:
        """Send one of its own batches; `tries` counts the attempts at it, this one included."""

    def close(self) -> None:
        """Let go of connections; nothing is sent afterwards."""


class VolatileSink(Sink, Protocol):
    """A sink whose receiver volatile when it restarts, and cannot tell a repetition."""

    receiver_retention: float  # how long it remembers a batch, by the batch's own time
    probe_interval: float  # how often it is looked at while it should remember something

    def handshake(self, batch: Any, identity: Identity, key: str) -> Handshake:
        """Who is at the other end, found out within the last moment; `key` is this service's own.

        An outcome instead tells that the batch is not to be sent, or that nobody is there.
        """

    def is_idempotent(self, batch: Any) -> bool:
        """Whether the receiver may get this batch twice without harm."""

    def event_time(self, batch: Any) -> float:
        """When the data of a batch was event_time, Unix seconds."""


def workload_key(identity: Identity) -> str:
    """What the receiver's rows are shared by: the workload, else the pod, else the spool alone."""
    return identity.workload_uid or identity.pod_name or identity.spool


def build_sinks(config: Config, address: ProcessorClient) -> dict[str, Sink]:
    """One of every registered sink, by name."""
    sinks: dict[str, Sink] = {}
    for name, place in REGISTRY.items():
        module, _, attribute = place.partition(":")
        sinks[name] = getattr(import_module(module), attribute)(config, address)
    return sinks
