"""Sinks: where records go.

A sink is one file and one line in `REGISTRY`. It says what of a stretch of a spool it takes and
turns that into parcels (`plan`, pure), and sends one parcel (`send`), returning an `Outcome`: it
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

from shipper.sinks.outcome import Greeting, Outcome
from shipper.steps import Passed, Refused, Step
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored

if TYPE_CHECKING:
    # Whoever only wants to know which sinks there are loads no network library.
    from shipper.config.schema import Config
    from shipper.sinks.processor.client import Address

REGISTRY: dict[str, str] = {
    "processor": "shipper.sinks.processor.metrics:ProcessorSink",
    "processor-detection": "shipper.sinks.processor.detection:ProcessorDetectionSink",
    "master": "shipper.sinks.dlrover.sink:MasterSink",
}


class Parcel(Protocol):
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

    def halves(self) -> tuple[Parcel, Parcel] | None:
        """Two parcels that together are this one, or None when it is the smallest possible."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
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

    parcels: tuple[Parcel, ...]
    held: tuple[int, ...] = ()
    refused: tuple[Refused, ...] = ()
    passed: tuple[Passed, ...] = ()


class Sink(Protocol):
    """The contract of a sink; one instance serves all spools and threads.

    `by_workload` tells that the receiver looks data up by workload, so that the workload of a pod
    is worth asking for. `forgets` tells that it keeps what it acknowledges in its memory only; such
    a sink is a `ForgetfulSink`. `kinds` are those of the records it may turn into parcels, None for
    a sink that has to see them all.
    """

    name: str
    kinds: frozenset[str] | None
    by_workload: bool
    forgets: bool

    def lane_key(self, identity: Identity) -> str:
        """What is sent under one key is sent one at a time."""

    def plan(self, stretch: Stretch) -> Plan:
        """Turn records into parcels. Pure."""

    def tell_cut_off(self, steps: Sequence[Step], identity: Identity) -> tuple[Parcel, ...]:
        """What to send when a process has died and left runs open at these steps; often nothing."""

    def send(self, parcel: Any, identity: Identity, tries: int) -> Outcome:
        """Send one of its own parcels; `tries` counts the attempts at it, this one included."""

    def close(self) -> None:
        """Let go of connections; nothing is sent afterwards."""


class ForgetfulSink(Sink, Protocol):
    """A sink whose receiver forgets when it restarts, and cannot tell a repetition."""

    remembered_seconds: float  # how long it remembers a parcel, by the parcel's own time
    look_seconds: float  # how often it is looked at while it should remember something

    def greet(self, parcel: Any, identity: Identity, key: str) -> Greeting:
        """Who is at the other end, found out within the last moment; `key` is this service's own.

        An outcome instead tells that the parcel is not to be sent, or that nobody is there.
        """

    def is_harmful(self, parcel: Any) -> bool:
        """Whether a repetition of this parcel does harm."""

    def taken(self, parcel: Any) -> float:
        """When the data of a parcel was taken, Unix seconds."""


def workload_key(identity: Identity) -> str:
    """What the receiver's rows are shared by: the workload, else the pod, else the spool alone."""
    return identity.workload_uid or identity.pod_name or identity.spool


def build_sinks(config: Config, address: Address) -> dict[str, Sink]:
    """One of every registered sink, by name."""
    sinks: dict[str, Sink] = {}
    for name, place in REGISTRY.items():
        module, _, attribute = place.partition(":")
        sinks[name] = getattr(import_module(module), attribute)(config, address)
    return sinks
