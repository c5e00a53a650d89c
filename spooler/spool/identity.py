"""Who wrote a spool: read once from the environment, stored once per segment. Pure.

The map in the `identity` table has exactly the field names of `Identity`; fields that a later
version adds are passed over by an older reader, missing ones take the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from typing import Any

from spooler.async_exceptions import is_async

# Where launchers other than torchrun put the same numbers; the first one set counts.
_RANK = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
_LOCAL_RANK = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
_NODE_RANK = ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID")
_WORLD_SIZE = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

# The limit of a spool is a setting of its writer; the service frees what is delivered in time.
MAX_BYTES = "PRIMUS_LENS_SPOOL_MAX_BYTES"

MASTER_ADDR = "DLROVER_MASTER_ADDR"

# A longer value is left out: it is kept, logged and sent with every request.
_CHARACTERS = 1024

_FALSE = frozenset({"false", "0", "no", "off"})


@dataclass(frozen=True, kw_only=True)
class Identity:
    """One spool's origin. Strings are `""` and ranks None where the environment does not say."""

    spool: str  # spool id
    created: float  # Unix seconds
    pid: int
    host: str
    version: str = ""  # of lens-ship in the training process

    # Which process it is, across reboots and pid namespaces; see `spooler.spool.owner.Life`.
    start_ticks: int = 0
    pid_namespace: int = 0
    boot_id: str = ""

    workload_uid: str = ""
    pod_uid: str = ""
    pod_name: str = ""
    namespace: str = ""

    rank: int | None = None  # over the whole job
    local_rank: int | None = None  # on this node
    node_rank: int | None = None
    world_size: int | None = None

    max_bytes: int | None = None  # of disk for this spool; None: what the writer takes by default

    # What the job asks of delivery; the service's own settings come first.
    api_base_url: str = ""
    api_reporting: bool = True
    save_local: bool = True
    batch_size: int | None = None  # steps per request
    flush_interval: float | None = None  # seconds

    # The training master, as DLRover names it.
    node_id: int | None = None
    node_type: str = "worker"
    job_uid: str = ""
    master_addr: str = ""
    master_service: str = "grpc"

    def to_map(self) -> dict[str, Any]:
        """The msgpack map of the `identity` table."""
        return asdict(self)

    @classmethod
    def from_map(cls, values: Mapping[str, Any]) -> Identity:
        """Rebuild from a decoded map, trusting nothing: a value of another type is left out.

        Raises:
            TypeError: one of the fields without a default is missing.
        """
        known = {f.name: f.type for f in fields(cls)}
        accepted = {
            name: values[name]
            for name, type_name in known.items()
            if name in values and _fits(values[name], str(type_name))
        }
        if "api_base_url" in accepted:
            accepted["api_base_url"] = _without_password(accepted["api_base_url"])
        return cls(**accepted)


def from_environ(
    environ: Mapping[str, str], *, spool: str, created: float, pid: int, host: str, version: str
) -> Identity:
    """Read the identity of this process; malformed numbers count as not set."""
    return Identity(
        spool=spool,
        created=created,
        pid=pid,
        host=host,
        version=version,
        workload_uid=environ.get("WORKLOAD_UID", ""),
        pod_uid=environ.get("POD_UID", ""),
        pod_name=environ.get("POD_NAME", "") or _kubernetes_pod(environ),
        namespace=environ.get("POD_NAMESPACE", ""),
        rank=first_int(environ, _RANK),
        local_rank=first_int(environ, _LOCAL_RANK),
        node_rank=first_int(environ, _NODE_RANK),
        world_size=first_int(environ, _WORLD_SIZE),
        max_bytes=first_int(environ, (MAX_BYTES,)),
        api_base_url=_without_password(environ.get("PRIMUS_LENS_API_BASE_URL", "")),
        api_reporting=is_on(environ, "PRIMUS_LENS_WANDB_API_REPORTING"),
        save_local=is_on(environ, "PRIMUS_LENS_WANDB_SAVE_LOCAL"),
        batch_size=first_int(environ, ("PRIMUS_LENS_WANDB_BATCH_SIZE",)),
        flush_interval=_seconds(environ.get("PRIMUS_LENS_WANDB_FLUSH_INTERVAL", "")),
        node_id=first_int(environ, ("NODE_ID",)),
        node_type=environ.get("NODE_TYPE", "") or "worker",
        job_uid=environ.get("JOB_UID", ""),
        master_addr=environ.get(MASTER_ADDR, ""),
        master_service=environ.get("DLROVER_MASTER_SERVICE_TYPE", "") or "grpc",
    )


def nobody(spool: str) -> Identity:
    """Who wrote a spool that does not say so any more: what its id tells."""
    start, pid, _ = spool.split("-")
    created = datetime.strptime(start, "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
    return Identity(spool=spool, created=created.timestamp(), pid=int(pid), host="")


def with_master(environ: Mapping[str, str], address: str) -> Mapping[str, str]:
    """The environment as if it named this training master; as it is, where there is none."""
    return {**environ, MASTER_ADDR: address} if address else environ


def directory_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """The two folders below the root: `node_<NODE_RANK>`, `rank_<LOCAL_RANK>`, 0 where unset."""
    node = first_int(environ, _NODE_RANK) or 0
    rank = first_int(environ, _LOCAL_RANK) or 0
    return f"node_{node}", f"rank_{rank}"


def is_on(environ: Mapping[str, str], name: str) -> bool:
    """Whether a switch that is on by default has not been turned off."""
    return environ.get(name, "").strip().lower() not in _FALSE


def first_int(environ: Mapping[str, str], names: tuple[str, ...]) -> int | None:
    """The first of these variables that holds a whole number, of 64 bits at most."""
    for name in names:
        text = environ.get(name, "")
        if not text:
            continue  # not by `int`: CPython loses what a signal handler raises while that fails
        try:
            value = int(text)
        except ValueError as error:
            if is_async(error):
                raise
            continue
        if -(2**63) <= value < 2**63:
            return value
    return None


def _seconds(text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        if is_async(error):
            raise
        return None
    return value if 0 < value < float("inf") else None


def _without_password(url: str) -> str:
    """`url` without user name and password: a spool and what is told of it hold no secrets."""
    scheme, separator, rest = url.partition("//")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}" if rest else url


def _kubernetes_pod(environ: Mapping[str, str]) -> str:
    """Inside Kubernetes the host name is the pod's name unless someone changed it."""
    return environ.get("HOSTNAME", "") if "KUBERNETES_SERVICE_HOST" in environ else ""


def _fits(value: Any, type_name: str) -> bool:
    if value is None:
        return "None" in type_name
    if type_name.startswith("bool"):
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if type_name.startswith("int"):
        return isinstance(value, int) and -(2**63) <= value < 2**63
    if type_name.startswith("float"):
        return isinstance(value, int | float) and abs(value) < 2**53
    return isinstance(value, str) and len(value) <= _CHARACTERS
