"""The process that wrote a spool: read once from the environment, stored in every segment. Pure.

The map in the `identity` table has the field names of `Identity`. A reader ignores fields of a
later version and uses the default for a missing one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from typing import Any

from spooler.config import MAX_BYTES, integer, positive, read, truth, variable, whole

# Launchers set the same numbers under other names: torchrun, the libraries of MPI (Open MPI,
# MVAPICH, MPICH and Intel's, PMIx), Flux, Cray's PALS, Slurm. What starts the process itself comes
# first, and Slurm last: its numbers are inherited by what other launchers start inside a job step.
_RANK = (
    "RANK",
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "FLUX_TASK_RANK",
    "PALS_RANKID",
    "SLURM_PROCID",
)
_LOCAL_RANK = (
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "FLUX_TASK_LOCAL_ID",
    "PALS_LOCAL_RANKID",
    "SLURM_LOCALID",
)
# DLRover's older name, torchrun's; MPI has none that counts nodes.
_NODE_RANK = ("NODE_RANK", "WORKER_RANK", "GROUP_RANK", "PALS_NODEID", "SLURM_NODEID")
_WORLD_SIZE = (
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "FLUX_JOB_SIZE",
    "SLURM_NTASKS",
)
# What a scheduler keeps over ranks, restarts and requeues of a job; the first that is set counts.
_JOB = ("WORKLOAD_UID", "JOB_UID", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")
_NO_JOB = ("", "none")  # torchrun's own default
MASTER_ADDR = "DLROVER_MASTER_ADDR"
LAUNCH = "PRIMUS_LENS_LAUNCH"

# What is longer is cut: it is kept, logged and sent with every request.
_CHARACTERS = 1024


def _without_password(url: str) -> str:
    """`url` without user name and password: a spool holds no secrets."""
    scheme, separator, rest = url.partition("//")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}" if rest else url


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The origin of a spool. What the environment does not set is `""`, or None for a number."""

    spool: str  # spool id
    created: float  # Unix seconds
    pid: int
    host: str
    version: str = ""  # of lens-ship in the training process

    # The process, across reboots and pid namespaces. See `spooler.spool.owner`.
    start_ticks: int = 0
    pid_namespace: int = 0
    boot_id: str = ""

    workload_uid: str = variable("WORKLOAD_UID", "", str)
    pod_uid: str = variable("POD_UID", "", str)
    pod_name: str = variable("POD_NAME", "", str)
    namespace: str = variable("POD_NAMESPACE", "", str)

    node_name: str = variable(("K8S_NODE_NAME", "NODE_NAME"), "", str)
    slurm_job_id: str = variable("SLURM_JOB_ID", "", str)
    launch: str = variable(LAUNCH, "", str)  # of `lens-ship exec`
    otel_service_name: str = variable("OTEL_SERVICE_NAME", "", str)
    otel_resource_attributes: str = variable("OTEL_RESOURCE_ATTRIBUTES", "", str)

    rank: int | None = variable(_RANK, None, integer)  # over the whole job
    local_rank: int | None = variable(_LOCAL_RANK, None, integer)  # on this node
    node_rank: int | None = variable(_NODE_RANK, None, integer)
    world_size: int | None = variable(_WORLD_SIZE, None, integer)

    # Of disk for this spool; None: the writer's default. The service deletes what is delivered
    # before the spool is full.
    max_bytes: int | None = variable(MAX_BYTES, None, whole(1))

    # The job's own settings of delivery. The settings of the service come first.
    api_base_url: str = variable("PRIMUS_LENS_API_BASE_URL", "", _without_password)
    api_reporting: bool = variable("PRIMUS_LENS_WANDB_API_REPORTING", True, truth)
    save_local: bool = variable("PRIMUS_LENS_WANDB_SAVE_LOCAL", True, truth)
    batch_size: int | None = variable("PRIMUS_LENS_WANDB_BATCH_SIZE", None, integer)  # steps
    flush_interval: float | None = variable(  # seconds
        "PRIMUS_LENS_WANDB_FLUSH_INTERVAL", None, positive
    )

    # The DLRover master of the job.
    node_id: int | None = variable("NODE_ID", None, integer)
    node_type: str = variable("NODE_TYPE", "worker", str)
    job_uid: str = variable("JOB_UID", "", str)
    master_addr: str = variable(MASTER_ADDR, "", str)
    master_service: str = variable("DLROVER_MASTER_SERVICE_TYPE", "grpc", str)

    def to_map(self) -> dict[str, Any]:
        """The msgpack map of the `identity` table."""
        return asdict(self)

    @classmethod
    def from_map(cls, values: Mapping[str, Any]) -> Identity:
        """Rebuild from a decoded map, trusting nothing: a value of another type is left out.

        Raises:
            TypeError: one of the fields without a default is missing.
        """
        known = (one for one in fields(cls) if one.name in values)
        accepted: dict[str, Any] = {
            one.name: value[:_CHARACTERS] if isinstance(value, str) else value
            for one in known
            if _fits(value := values[one.name], str(one.type))
        }
        if "api_base_url" in accepted:
            accepted["api_base_url"] = _without_password(accepted["api_base_url"])
        return cls(**accepted)


def from_environ(  # noqa: PLR0913 - what the environment does not say
    environ: Mapping[str, str],
    bad: dict[str, str] | None = None,
    *,
    spool: str,
    created: float,
    pid: int,
    host: str,
    version: str,
) -> Identity:
    """Read the identity of this process; malformed numbers count as not set, see `config.read`."""
    values = read(Identity, environ, bad)
    if "KUBERNETES_SERVICE_HOST" in environ:
        # Inside Kubernetes the host name is the pod's name unless the pod sets another.
        values["pod_name"] = values["pod_name"] or environ.get("HOSTNAME", "")
    return Identity(spool=spool, created=created, pid=pid, host=host, version=version, **values)


def from_spool_id(spool: str) -> Identity:
    """The identity of a spool whose own is lost: start and pid are part of the id."""
    start, pid, _ = spool.split("-")
    created = datetime.strptime(start, "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
    return Identity(spool=spool, created=created.timestamp(), pid=int(pid), host="")


def with_master(environ: Mapping[str, str], address: str) -> Mapping[str, str]:
    """The environment with this DLRover master, if one is given."""
    return {**environ, MASTER_ADDR: address} if address else environ


def job_of(environ: Mapping[str, str]) -> str:
    """The id of the job of this process, "" where it has none."""
    ids = (environ.get(name, "").strip() for name in _JOB)
    return next((one for one in ids if one not in _NO_JOB), "")


def directory_of(environ: Mapping[str, str]) -> tuple[str, str]:
    """The two directories below the root: `node_<NODE_RANK>`, `rank_<LOCAL_RANK>`, 0 if unset."""
    ranks = read(Identity, environ)
    return f"node_{ranks['node_rank'] or 0}", f"rank_{ranks['local_rank'] or 0}"


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
    return isinstance(value, str)
