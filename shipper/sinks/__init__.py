"""Sinks: where records go.

A sink is one class in one file and one line in `REGISTRY`. It declares its options as a frozen
dataclass of settings (`Options`), turns records into batches (`plan`, pure), and sends one batch
(`send`). `send` returns an `Outcome` and never raises for what a receiver or the network does.
``DELIVERED`` means that the receiver has acknowledged the data.

`[sinks.NAME]` in the TOML file configures a sink: `type` is a key of `REGISTRY`, or
``package.module:Class`` for a sink outside of this package, and the other keys are its options. The
ledger keeps the positions of a sink under its NAME. Without any `[sinks.NAME]` there are the sinks
of `DEFAULT`, and the settings of the service are their options.

Sinks are independent. Each has its own position in every spool and does not know the others. What
only some sinks can do is a capability, a protocol of its own (`isinstance(sink, Volatile)`).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from shipper.config.schema import settings_of
from shipper.errors import ConfigError
from shipper.finding import Finding
from shipper.http_client.redact import masked
from shipper.sinks.outcome import Handshake, Outcome
from shipper.steps import Rejected, Skipped, Step
from spooler.records.axes import STEP_KEYS
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored

if TYPE_CHECKING:
    from shipper.config.schema import Config

REGISTRY: dict[str, str] = {
    "telemetry-processor": "shipper.sinks.processor.metrics:MetricsSink",
    "telemetry-processor-detection": "shipper.sinks.processor.detection:DetectionSink",
    "dlrover": "shipper.sinks.dlrover.sink:DLRoverSink",
    "otlp": "shipper.sinks.otlp.sink:OtlpSink",
    "prometheus": "shipper.sinks.prometheus.sink:PrometheusSink",
    "mlflow": "shipper.sinks.mlflow.sink:MlflowSink",
}
SHARED_ROWS = "telemetry-processor"  # the type with rows that all runs of a workload share
# Name and type of the sinks that exist when no [sinks.NAME] is given.
DEFAULT: dict[str, str] = {
    "processor": "telemetry-processor",
    "processor-detection": "telemetry-processor-detection",
    "master": "dlrover",
}
# Kinds that mark beginnings, ends and losses. Nothing of them is shown by a receiver.
_NAME = r"[A-Za-z0-9_-]{1,64}"  # of a sink: it is a part of headers and of keys in the ledger
MARKS = frozenset({"run", "finish", "exit", "gap"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """What one request carries.

    Attributes:
        seqs: the records in it, in order, at least one.
        payload: whatever the sink needs to send it.
        run: the run whose records these are; "" for a sink that does not keep runs apart.
        counts: added to the counters `points`, `nonfinite` and `left_out` once it is delivered.
        split: makes two smaller batches that together are this one; None for the smallest.
    """

    seqs: tuple[int, ...]
    payload: Any
    run: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    split: Callable[[], tuple[Batch, Batch]] | None = field(default=None, compare=False)

    @property
    def first(self) -> int:
        return self.seqs[0]

    @property
    def last(self) -> int:
        return self.seqs[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanInput:
    """Consecutive records of one spool that the sink has not acknowledged yet, of its `kinds`."""

    identity: Identity
    records: Sequence[Stored]
    ended: bool  # nothing will follow these records
    waited: frozenset[int] = frozenset()  # first seqs of open steps that have waited long enough
    # Gaps of records that their writer has deleted: seq -> how many of them this sink has not got.
    deleted: Mapping[int, int] = field(default_factory=dict)
    step_keys: Sequence[str] = STEP_KEYS  # for `shipper.steps.collect_steps`


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What becomes of the records of a `PlanInput`. Each of them is in exactly one of these.

    Attributes:
        batches: to be sent, in the order of their first record.
        pending: first seqs of open steps, which wait for their next part.
        rejected: can never be sent, and become dead letters.
        skipped: of no use to this sink.
    """

    batches: tuple[Batch, ...]
    pending: tuple[int, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    skipped: tuple[Skipped, ...] = ()


class Sink(Protocol):
    """The contract of a sink. One instance serves all spools and threads.

    The class has an attribute `Options`, a frozen dataclass of settings, and is called with the
    name of the sink, its options, and a map in which the sinks of one process share what they like.

    Attributes:
        name: the NAME of `[sinks.NAME]`.
        kinds: of the records that `plan` is given; None for all. The pipeline skips other records.
    """

    name: str
    kinds: frozenset[str] | None

    def ordering_key(self, identity: Identity) -> str:
        """Batches of one key are sent one at a time."""

    def plan(self, chunk: PlanInput) -> Plan:
        """Turn records into batches. Pure."""

    def send(self, batch: Batch, identity: Identity, attempt: int) -> Outcome:
        """Send a batch of this sink. `attempt` counts from 1 for the same batch."""

    def close(self) -> None:
        """Close connections. Nothing is sent afterwards."""


# --- capabilities ---------------------------------------------------------------------------------


@runtime_checkable
class Volatile(Protocol):
    """The receiver loses what it acknowledged when it restarts, and cannot detect a repetition.

    Attributes:
        receiver_retention: the `age` in seconds up to which it remembers a batch.
        probe_interval: seconds between two handshakes while it should remember something.
    """

    receiver_retention: float
    probe_interval: float

    def handshake(self, batch: Batch | None, identity: Identity, key: str) -> Handshake:
        """Find out the receiver's epoch; `key` is this service's own.

        An outcome instead says that the batch is not to be sent, or that there is no answer.
        """

    def is_idempotent(self, batch: Batch) -> bool:
        """Whether the receiver may get this batch twice without harm."""

    def age(self, batch: Batch, identity: Identity) -> float | None:
        """Seconds since the data was taken; None without a clock that is the process's and ours.

        Wall clocks of two processes differ, and jump: no age comes from them.
        """


class VolatileSink(Sink, Volatile, Protocol):
    """A sink whose receiver is volatile."""


@runtime_checkable
class ExitNotice(Protocol):
    """The receiver is told when a process exits uncleanly."""

    def exit_notice(self, steps: Sequence[Step], identity: Identity) -> tuple[Batch, ...]:
        """What to send for the last steps of the runs that the process left open."""


@runtime_checkable
class Probe(Protocol):
    """The receiver can be checked without sending a record."""

    def probe(self, identities: Sequence[Identity]) -> Iterable[Finding]:
        """Findings for `lens-ship check`; `identities` are those of the spools that there are."""


@runtime_checkable
class Renewable(Protocol):
    """Credentials are read from files that may change."""

    def credentials(self) -> Hashable:
        """Another value as soon as a credential on disk is another one."""


@runtime_checkable
class HasDestination(Protocol):
    """The address of the receiver is known beforehand."""

    def destination(self, identity: Identity) -> str:
        """Where the records of a spool are sent; "" if there is no address."""


@runtime_checkable
class Overwrites(Protocol):
    """The receiver keeps one value of a step for each workload and rank: the last one it gets.

    Attributes:
        overwrites: True. A replay leaves out steps that a later process has written since.
    """

    overwrites: bool


@runtime_checkable
class LimitsAge(Protocol):
    """The receiver may refuse old data, or ignore it.

    Attributes:
        age_limits: what to check there before data that is more than an hour old is sent.
    """

    age_limits: str


class Memory(Protocol):
    """Where resolved workloads are kept: `shipper.ledger.ledger.Ledger`."""

    def workload(self, spool: str) -> str:
        """What is remembered of a spool, or ""."""

    def remember_workload(self, spool: str, uid: str) -> None:
        """Keep it."""


@runtime_checkable
class ResolvesIdentity(Protocol):
    """The receiver can complete an identity."""

    def resolve(self, identity: Identity, memory: Memory, *, alive: bool) -> Identity:
        """`identity`, completed if that is possible now; `alive`: its process still runs."""


def workload_key(identity: Identity) -> str:
    """The ordering key of receivers with rows per workload: the workload, pod or spool."""
    return identity.workload_uid or identity.pod_name or identity.spool


# --- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SinkConfig:
    """A sink that is configured; `make` and `kinds` are those of its class."""

    name: str
    type: str
    make: Callable[[str, Any, dict[Any, Any]], Sink]
    options: Any
    kinds: frozenset[str] | None

    @property
    def volatile(self) -> bool:
        """Whether its receiver is volatile, see `Volatile`."""
        return hasattr(self.make, "handshake")

    @property
    def carried(self) -> frozenset[str] | None:
        return carried(self.kinds)


def carried(kinds: frozenset[str] | None) -> frozenset[str] | None:
    """Of the kinds of a sink those that a receiver gets to see, for counts; None for all."""
    return None if kinds is None else kinds - MARKS


def sink_types(config: Config, noted: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """Name and type of the sinks that are configured. Loads none of them.

    `noted` are those that the service runs, by its ledger. A command without any [sinks.NAME] goes
    by them.
    """
    types = {name: str(table.get("type")) for name, table in config.sinks.items()}
    return types or noted or DEFAULT


def sink_names(config: Config, noted: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The names of `sink_types`."""
    return tuple(sink_types(config, noted))


def carried_kinds(
    config: Config, noted: Mapping[str, str] | None = None
) -> dict[str, frozenset[str] | None]:
    """What each configured sink carries. A type that cannot be loaded is left out."""
    found = {}
    for name, kind in sink_types(config, noted).items():
        with contextlib.suppress(ValueError):
            found[name] = carried(load_class(kind).kinds)
    return found


def enabled_sinks(config: Config) -> dict[str, SinkConfig]:
    """Every sink that is configured, by name.

    Raises:
        ConfigError: with every problem of every sink.
    """
    from shipper.sinks.options import from_settings

    if config.sinks:
        found, problems = _from_tables(config.sinks, "")
        if problems:
            raise ConfigError(problems)
        return found
    enabled = {}
    for name, kind in DEFAULT.items():
        made = load_class(kind)
        enabled[name] = _sink_config(name, kind, made, from_settings(made.Options, config))
    return enabled


def from_words(text: str) -> tuple[str, dict[str, Any]]:
    """Name and table of the sink that `TYPE=ADDRESS` describes, without a table [sinks.NAME].

    ADDRESS is the first option of the type. `TYPE` alone has it from a variable of another tool.
    The name follows from both: of another address nothing is known to be delivered.

    Raises:
        ValueError: with every problem; the text continues "--sink ".
    """
    from shipper.sinks.options import from_table

    kind, given, address = text.partition("=")
    try:
        options = load_class(kind).Options
    except ValueError as error:
        raise ValueError(f"{masked(kind)!r} {masked(str(error))}") from error
    key = settings_of(options)[0].name
    where = f"{kind}{given}{masked(address)}"
    values, problems = from_table(options, {key: address} if given else {}, where)
    if problems:
        raise ValueError(". ".join(problems))
    address = str(getattr(values, key))
    host = urlsplit(address if "//" in address else f"//{address}").hostname or ""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", f"{kind.rpartition(':')[2]}-{host}").strip("-")
    digest = hashlib.sha256(f"{kind}={address}".encode()).hexdigest()[:6]
    return f"{plain[:50]}-{digest}", {"type": kind, key: address}


def table_problems(tables: Mapping[str, Any], where: str) -> list[str]:
    """What is wrong with the tables [sinks.NAME]; each problem begins with `where`."""
    return _from_tables(tables, where)[1]


def _from_tables(tables: Mapping[str, Any], where: str) -> tuple[dict[str, SinkConfig], list[str]]:
    from shipper.sinks.options import from_table

    found: dict[str, SinkConfig] = {}
    problems: list[str] = []
    for name, table in tables.items():
        here = f"{where}[sinks.{name}]"
        if not re.fullmatch(_NAME, name):
            problems.append(f"{here}: a name has letters, digits, - and _ only, at most 64")
        kind = table.get("type", "")
        try:
            made = load_class(kind)
        except ValueError as error:
            problems.append(f"{here}: type: {kind!r} {error}")
            continue
        options = {key: value for key, value in table.items() if key != "type"}
        values, wrong = from_table(made.Options, options, here)
        problems += wrong
        found[name] = _sink_config(name, kind, made, values)
    return found, problems


def _sink_config(name: str, kind: str, made: Any, options: Any) -> SinkConfig:
    return SinkConfig(name=name, type=kind, make=made, options=options, kinds=made.kinds)


def build_sinks(enabled: Mapping[str, SinkConfig]) -> dict[str, Sink]:
    """An instance of each of these sinks, by name."""
    shared: dict[Any, Any] = {}
    return {name: one.make(name, one.options, shared) for name, one in enabled.items()}


def load_class(kind: str) -> Any:
    """The class of a sink type.

    Raises:
        ValueError: there is none; the text continues "type: '<kind>' ".
    """
    place = REGISTRY.get(kind, kind) if isinstance(kind, str) else ""
    module, _, attribute = place.partition(":")
    if not attribute:
        raise ValueError(
            f"is not a type of sink; known are {', '.join(REGISTRY)}, and package.module:Class for"
            " a class of your own"
        )
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # importing runs code that is not ours
        raise ValueError(f"cannot be loaded ({type(error).__name__}: {error})") from error
    missing = [
        name
        for name in ("Options", "kinds", "ordering_key", "plan", "send", "close")
        if not hasattr(found, name)
    ]
    if missing:
        raise ValueError(f"is not a sink: it has no {', '.join(missing)}")
    return found
