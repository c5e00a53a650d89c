"""Every setting of the service. A setting is one field of `Config`; nothing else repeats it.

`setting()` and `settings_of()` work for any frozen dataclass, also for the options of a sink.
`make docs` writes docs/configuration.md from these fields. Secrets are never settings: they
stand in files, and settings name the files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shipper.config.parse import (
    address,
    choice,
    integer,
    listen,
    names,
    number,
    object_name,
    optional_path,
    path,
    proxy,
    switch,
    url,
)
from spooler.records.axes import STEP_KEYS
from spooler.spool.identity import Identity

POLICIES = ("drop-newest", "drop-oldest")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "logfmt", "json")

# The settings that are the options of the sinks when there is no [sinks.NAME].
SINK_SETTINGS = (
    "processor_url",
    "token_file",
    "cookie_file",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "proxy",
    "connect_timeout",
    "read_timeout",
    "batch_max_steps",
    "batch_max_bytes",
    "drop_non_numeric",
    "rank_prefix",
    "run_prefix",
    "dlrover_address",
    "dlrover_protocol",
    "dlrover_client",
    "dlrover_message_bytes",
    "dlrover_max_age",
    "dlrover_wait_for_endpoint",
    "dlrover_proxy",
)

_MIB = 1024 * 1024
_TEN_YEARS = 10 * 366 * 86400


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: of the field, and the key in the TOML table. The flag and the variable follow from it.
        default: the value when nothing is given.
        parse: turns text, or a TOML value, into the checked value. Raises ValueError with a text
            that continues "<source>: '<value>' ", for example "is outside 1 … 64".
        help: what it does, with units.
        why: the reason for the default.
        alias: a variable of another tool with the same meaning; the last source before the default.
        credential: the file of this name in $CREDENTIALS_DIRECTORY (systemd `LoadCredential=`) is
            used when nothing else is given.
        section: the heading above this setting in the documentation; "" continues the section.
    """

    default: Any
    parse: Callable[[Any], Any]
    help: str
    why: str = ""
    alias: str = ""
    credential: str = ""
    section: str = ""
    name: str = ""

    @property
    def variable(self) -> str:
        return f"LENS_SHIP_{self.name.upper()}"

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def default_text(self) -> str:
        """The default as a user writes it; "" where there is none."""
        if self.default in (None, ""):
            return ""
        if isinstance(self.default, float):
            return f"{self.default:g}"
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)


def setting(default: Any, parse: Callable[[Any], Any], **more: str) -> Any:
    """A dataclass field that is a setting; `more` are the other attributes of `Setting`."""
    return field(
        default=default, metadata={"setting": Setting(default=default, parse=parse, **more)}
    )


def settings_of(cls: type) -> tuple[Setting, ...]:
    """The settings of a dataclass in the order of its fields."""
    return tuple(
        dataclasses.replace(one.metadata["setting"], name=one.name)
        for one in dataclasses.fields(cls)
        if "setting" in one.metadata
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one process, checked."""

    spool: Path = setting(
        None,
        path,
        section="Spools and state",
        alias="PRIMUS_LENS_WANDB_OUTPUT_PATH",
        help="Spool root: the directory that training jobs record to.",
        why="A wrong guess would ship nothing and look healthy.",
    )
    state: Path = setting(
        None,
        path,
        help="Directory of the service's own database. Default: $STATE_DIRECTORY,"
        " /var/lib/lens-ship for root, ~/.local/state/lens-ship for other users.",
        why="systemd, the system and the user each have such a directory.",
    )
    pod_directories: bool = setting(
        False,
        switch,
        help="true: the directories directly below the root are named by pod uids, and each pod"
        " mounts its own (subPathExpr). The name of the directory replaces the pod uid in the"
        " spool. Spools outside of such directories are not shipped.",
        why="Only the operator knows whether each pod is limited to its own directory.",
    )
    rescan_interval: float = setting(
        30.0,
        number(0.1, 3600),
        help="Seconds between two scans of the root. A scan finds a new spool whose inotify event"
        " was lost.",
        why="A scan takes milliseconds, and a lost event is rare.",
    )

    processor_url: str = setting(
        "",
        url,
        section="Sink: telemetry-processor",
        alias="PRIMUS_LENS_API_BASE_URL",
        help="Base URL of the telemetry-processor, with its /v1. If one of /v1 and /api/v1 answers"
        " 404, the service tries the other. Unset: the URL that each job recorded.",
        why="Jobs already record the URL. A value here is used for all of them.",
    )
    drop_non_numeric: bool = setting(
        False,
        switch,
        help="true: drop values that are not numbers. false: send a step with such values to"
        " /wandb/logs.",
        why="Everything the user logged is delivered.",
    )
    rank_prefix: bool = setting(
        True,
        switch,
        help="Send the metrics of ranks other than 0 as rank<R>/<name>. A rank that is the sole"
        " writer of its job has no prefix.",
        why="All ranks of a workload share the same rows and would overwrite each other's values.",
    )
    run_prefix: bool = setting(
        True,
        switch,
        help="Send the metrics of trials of a sweep, and of runs that repeat the steps of another"
        " run of their process, as run-<ID>/<name>.",
        why="All runs of a workload share the same rows and would overwrite each other's values.",
    )

    dlrover_address: str = setting(
        "",
        address,
        section="Sink: DLRover master",
        alias="DLROVER_MASTER_ADDR",
        help="HOST:PORT of the DLRover master for the reports of all jobs. Unset: the address that"
        " each job recorded.",
        why="A node runs several jobs, and each has its own master.",
    )
    dlrover_protocol: str = setting(
        "",
        choice("", "grpc", "http"),
        alias="DLROVER_MASTER_SERVICE_TYPE",
        help="grpc or http. Unset: the protocol that each job recorded, else grpc.",
        why="DLRover sets the protocol in the environment of each job.",
    )
    dlrover_client: str = setting(
        "",
        object_name,
        help="package.module:name of a client for another kind of master: an object with the"
        " method report_diagnosis_agent_metrics, or a callable that returns one.",
        why="The protocol of DLRover is built in.",
    )
    dlrover_message_bytes: int = setting(
        4 * _MIB,
        integer(1024, 256 * _MIB),
        help="Maximum bytes of a message to the master. Longer logs and stacks are split at line"
        " ends. Any other longer report becomes a dead letter.",
        why="DLRover 0.5.0 to 0.6.1 reject larger messages over gRPC.",
    )
    dlrover_max_age: float = setting(
        600.0,
        number(0, _TEN_YEARS),
        help="Seconds after which a report expires and is dropped. 0: reports never expire.",
        why="DLRover accepts a report that is older than ten minutes and ignores it.",
    )
    dlrover_wait_for_endpoint: float = setting(
        0.0,
        number(0, _TEN_YEARS),
        help="Seconds for which the service keeps the reports of a job that recorded no master."
        " After that it drops and counts them. Set it if --dlrover-address may be given later.",
        why="A job records the address at its start and does not change it.",
    )
    dlrover_proxy: str = setting(
        "",
        proxy,
        help="URL of an HTTP proxy for requests to masters, or `environment`. Unset: no proxy.",
        why="Masters run inside the cluster.",
    )

    api_reporting: bool = setting(
        True,
        switch,
        section="Delivery",
        alias="PRIMUS_LENS_WANDB_API_REPORTING",
        help="false: send nothing and keep everything in the spools.",
        why="The service exists to deliver.",
    )
    batch_max_steps: int = setting(
        100,
        integer(1, 1000),
        alias="PRIMUS_LENS_WANDB_BATCH_SIZE",
        help="Maximum steps in one request.",
        why="The processor stores steps one by one. Larger requests are slower and gain nothing.",
    )
    batch_max_bytes: int = setting(
        512 * 1024,
        integer(1024, 64 * _MIB),
        help="Maximum bytes of one request. A single larger step is sent alone.",
        why="Half of the 1 MiB that common proxies accept.",
    )
    step_keys: str = setting(
        ", ".join(STEP_KEYS),
        names,
        help="Names of metrics, with commas between. The first that a row has is its step, if the"
        " job neither named the step nor defined an axis. Empty: the tracker's own count is the"
        " step of such rows.",
        why="Trainers log their step under these names. wandb's count of calls is no step to them.",
    )
    flush_interval: float = setting(
        5.0,
        number(0.05, 3600),
        alias="PRIMUS_LENS_WANDB_FLUSH_INTERVAL",
        help="Maximum seconds between the write of a record and its request, if the receiver"
        " answers.",
        why="The default of the older exporter. Curves look live at a low request rate.",
    )
    workers: int = setting(
        4,
        integer(1, 64),
        help="Concurrent requests to each sink, each for another workload. Half as many again are"
        " reserved for workloads whose last request timed out.",
        why="A node rarely runs more jobs at once, and the receiver serves many nodes.",
    )
    drain_seconds: float = setting(
        0.0,
        number(0, 3600),
        help="Seconds for which the service goes on to deliver after SIGTERM. It ends earlier when"
        " nothing is left to send. A second SIGTERM ends it at once. 0: only requests in flight are"
        " completed.",
        why="The spools of a node outlive the service. Those of a pod or of a job do not: see"
        " `lens-ship docs deployment`.",
    )
    connect_timeout: float = setting(
        5.0,
        number(0.1, 600),
        help="Seconds to wait for a connection.",
        why="Long enough for two lost packets of the handshake.",
    )
    read_timeout: float = setting(
        30.0,
        number(0.1, 3600),
        help="Seconds for a request and its whole response. The timeout grows up to ten times for a"
        " workload whose responses take longer.",
        why="The processor stops storing a request when the client disconnects. Waiting costs less"
        " than a retry.",
    )
    proxy: str = setting(
        "",
        proxy,
        help="URL of an HTTP proxy for all requests, or `environment` to use HTTP_PROXY,"
        " HTTPS_PROXY and NO_PROXY. Unset: no proxy.",
        why="Receivers run inside the cluster. A proxy in the node's environment usually leads"
        " out of it.",
    )

    token_file: Path | None = setting(
        None,
        optional_path,
        section="Credentials and TLS",
        credential="token",
        help="File with a bearer token for processor_url. The service reads it again when it"
        " changes. Default: $CREDENTIALS_DIRECTORY/token if systemd provides it.",
        why="The processor needs no token. A gateway in front of it may.",
    )
    cookie_file: Path | None = setting(
        None,
        optional_path,
        credential="cookie",
        help="File with the value of a Cookie header for processor_url, `name=value`. The service"
        " reads it again when it changes. Default: $CREDENTIALS_DIRECTORY/cookie.",
        why="The processor's own sign-in uses cookies. It is rarely enabled.",
    )
    ca_file: Path | None = setting(
        None,
        optional_path,
        help="PEM file of the accepted certificate authorities. Unset: those of the operating"
        " system, or the ones that come with requests if the system has none.",
        why="The operator already chooses what the operating system trusts.",
    )
    client_cert_file: Path | None = setting(
        None,
        optional_path,
        help="PEM file with the client certificate for processor_url, and its chain.",
        why="Few receivers ask for one.",
    )
    client_key_file: Path | None = setting(
        None,
        optional_path,
        help="PEM file with the key of client_cert_file, without a passphrase. Unset: the key is"
        " in client_cert_file.",
        why="A service cannot ask for a passphrase at its start.",
    )

    save_local: bool = setting(
        True,
        switch,
        section="Retention",
        alias="PRIMUS_LENS_WANDB_SAVE_LOCAL",
        help="false: delete a segment as soon as every sink has acknowledged it. true: keep it for"
        " replay.",
        why="A receiver that loses its database can be filled again.",
    )
    retention_seconds: float = setting(
        86400.0,
        number(0, _TEN_YEARS),
        help="Seconds for which delivered segments are kept for replay.",
        why="A day: a failure at night is noticed in the morning.",
    )
    retention_bytes: int = setting(
        1024 * _MIB,
        integer(0, 2**60),
        help="Maximum bytes of delivered segments under the root. The oldest are deleted first.",
        why="1 GiB holds millions of steps and is a small part of a node's disk.",
    )
    root_bytes: int = setting(
        0,
        integer(0, 2**60),
        help="Maximum bytes of disk for all spools under the root. 0: no limit. Delivered segments"
        " are deleted first, before their retention ends.",
        why="Each spool has its own limit. Only the operator knows the disk.",
    )
    when_full: str = setting(
        "drop-newest",
        choice(*POLICIES),
        help="What happens when root_bytes is reached and no delivered segment is left."
        " drop-newest: training processes reject new records. drop-oldest: the service deletes the"
        " oldest segments. Both are counted.",
        why="Records that were accepted stay. Rejected records are counted at once.",
    )
    dead_letter_count: int = setting(
        100_000,
        integer(0, 10**9),
        help="Maximum number of dead letters. The oldest are discarded first and counted.",
        why="`lens-ship dead-letter list` still takes about a second.",
    )
    dead_letter_bytes: int = setting(
        256 * _MIB,
        integer(0, 2**50),
        help="Maximum bytes of dead letters. The oldest are discarded first and counted.",
        why="Keeps the state directory below half a gigabyte.",
    )
    quarantine_bytes: int = setting(
        1024 * _MIB,
        integer(0, 2**50),
        help="Maximum bytes of damaged segments. The oldest are deleted first. Their reports stay.",
        why="Their readable records are delivered by then. The files are kept for inspection.",
    )

    http_listen: str = setting(
        "127.0.0.1:5367",
        listen,
        section="HTTP port",
        help="HOST:PORT of the status page, /metrics and the health endpoints, or off. They show"
        " names of workloads and loss curves. Restrict any address other than loopback with a"
        " network policy.",
        why="Only users of the node reach the loopback address. 5367 spells LENS on a telephone"
        " keypad and is not a registered port.",
    )

    log_level: str = setting(
        "info",
        choice(*LOG_LEVELS),
        section="Logging",
        help="debug, info, warning or error.",
        why="info logs each change of state, but not each request.",
    )
    log_format: str = setting(
        "text",
        choice(*LOG_FORMATS),
        help="text, logfmt or json: one line for each message, with fields. In the systemd"
        " journal, lines start with their priority and have no time.",
        why="The first reader is a person at a terminal.",
    )
    log_repeat_seconds: float = setting(
        300.0,
        number(0, 86400),
        help="Minimum seconds between two log lines with the same message and subject. The next"
        " line counts the suppressed ones. 0: log every one.",
        why="A receiver that fails often leaves two lines in five minutes, not hundreds.",
    )

    sinks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # tables [sinks.NAME]
    given: Mapping[str, str] = field(default_factory=dict)  # setting -> where its value came from
    warnings: tuple[str, ...] = ()  # likely mistakes that do not stop the service

    @property
    def keys_of_steps(self) -> tuple[str, ...]:
        """`step_keys` one by one."""
        return tuple(self.step_keys.split(", ")) if self.step_keys else ()

    def seconds_to_flush(self, identity: Identity) -> float:
        """The operator's interval, else the one the job recorded, else the default."""
        asked = identity.flush_interval
        if "flush_interval" in self.given or asked is None:
            return self.flush_interval
        return min(max(asked, 0.05), 3600.0)


SETTINGS = settings_of(Config)
