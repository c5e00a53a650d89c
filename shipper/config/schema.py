"""Every setting of the service: name, default, meaning, and why that default. One table.

Adding one is a row and a field of `Config` here; `make settings` writes the
row into docs/settings.md. Secrets are never settings: they stand in files, which the settings name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipper.config import parse as parsing
from spooler.spool.identity import Identity

POLICIES = ("drop-newest", "drop-oldest")
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "logfmt", "json")

_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row.

    `alias` is the older exporter's variable of the same meaning; `credential` the name under which
    systemd hands the file over (`LoadCredential=`), taken when nothing else is given.
    """

    name: str
    default: Any
    parse: Callable[[Any], Any]
    help: str
    why: str
    alias: str = ""
    credential: str = ""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"LENS_SHIP_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return f"--{self.name.replace('_', '-')}"


SETTINGS = (
    Setting(
        name="spool",
        default=None,
        parse=parsing.path,
        alias="PRIMUS_LENS_WANDB_OUTPUT_PATH",
        help="Spool root; the folder the training jobs record to.",
        why="A root that was guessed wrong would ship nothing and look healthy.",
    ),
    Setting(
        name="state",
        default=None,
        parse=parsing.path,
        help="Directory of this service's own database. Default: $STATE_DIRECTORY,"
        " /var/lib/lens-ship for root, ~/.local/state/lens-ship for others.",
        why="Where systemd, the system and the user each keep such files.",
    ),
    Setting(
        name="processor_url",
        default="",
        parse=parsing.url,
        alias="PRIMUS_LENS_API_BASE_URL",
        help="Base URL of the telemetry-processor, with its /v1; when one of /v1 and /api/v1"
        " answers 404 the other is tried. Unset: what each job recorded.",
        why="Jobs already carry the address; one given here holds for all of them.",
    ),
    Setting(
        name="master",
        default="",
        parse=parsing.address,
        alias="DLROVER_MASTER_ADDR",
        help="HOST:PORT of the training master that takes the reports of all jobs. Unset: what each"
        " job recorded.",
        why="A node serves several jobs, and each has a master of its own.",
    ),
    Setting(
        name="master_service",
        default="",
        parse=parsing.choice("", "grpc", "http"),
        alias="DLROVER_MASTER_SERVICE_TYPE",
        help="grpc or http. Unset: what each job recorded, else grpc.",
        why="The master decides; its jobs are told.",
    ),
    Setting(
        name="master_client",
        default="",
        parse=parsing.place,
        help="package.module:name of a client for another kind of master: an object with"
        " report_diagnosis_agent_metrics, or what makes one.",
        why="DLRover's own protocol is built in.",
    ),
    Setting(
        name="master_message_bytes",
        default=4 * _MIB,
        parse=parsing.integer(1024, 256 * _MIB),
        help="Bytes of a message to the master at most. Logs and stacks are cut at the ends of"
        " lines; anything else that is larger is a dead letter.",
        why="DLRover 0.5.0 to 0.6.1 take no larger one over gRPC.",
    ),
    Setting(
        name="master_keep_seconds",
        default=600.0,
        parse=parsing.number(0, 10 * 366 * 86400),
        help="Age at which a report is given up as expired. 0: reports of any age are sent.",
        why="DLRover says yes to a report that is ten minutes old, and drops it.",
    ),
    Setting(
        name="master_wait",
        default=0.0,
        parse=parsing.number(0, 10 * 366 * 86400),
        help="Seconds for which the reports of a job without a master are kept for one that may"
        " come with --master; then they are given up, and counted.",
        why="The address is recorded when a job starts, and never comes later by itself.",
    ),
    Setting(
        name="master_proxy",
        default="",
        parse=parsing.proxy,
        help="URL of an HTTP proxy to reach masters through, or `environment`. Unset: none.",
        why="Masters stand in the cluster.",
    ),
    Setting(
        name="batch_size",
        default=100,
        parse=parsing.integer(1, 1000),
        alias="PRIMUS_LENS_WANDB_BATCH_SIZE",
        help="Steps per request at most.",
        why="The processor stores steps one by one: more gains nothing and makes a request slow.",
    ),
    Setting(
        name="flush_interval",
        default=5.0,
        parse=parsing.number(0.05, 3600),
        alias="PRIMUS_LENS_WANDB_FLUSH_INTERVAL",
        help="Seconds a record waits at most before it is sent, when nothing is in the way.",
        why="The older exporter's; curves look live, and a request pays for itself.",
    ),
    Setting(
        name="request_bytes",
        default=512 * 1024,
        parse=parsing.integer(1024, 64 * _MIB),
        help="Bytes of a request at most; a single larger step travels alone.",
        why="Half of the 1 MiB that common proxies let pass.",
    ),
    Setting(
        name="connect_timeout",
        default=5.0,
        parse=parsing.number(0.1, 600),
        help="Seconds to wait for a connection.",
        why="Two lost packets of a handshake are repeated within it.",
    ),
    Setting(
        name="read_timeout",
        default=30.0,
        parse=parsing.number(0.1, 3600),
        help="Seconds to wait for an answer; up to ten times as long for a workload whose answers"
        " have taken longer.",
        why="The processor drops what it has not stored yet when the client hangs up, so patience"
        " is cheaper than a repetition.",
    ),
    Setting(
        name="token_file",
        default=None,
        parse=parsing.optional_path,
        credential="token",
        help="File with a bearer token for processor_url; read again when it changes. Default:"
        " $CREDENTIALS_DIRECTORY/token where systemd provides one.",
        why="The processor asks for none; a gateway before it may.",
    ),
    Setting(
        name="cookie_file",
        default=None,
        parse=parsing.optional_path,
        credential="cookie",
        help="File with the value of a Cookie header for processor_url, `name=value`; read again"
        " when it changes. Default: $CREDENTIALS_DIRECTORY/cookie.",
        why="The processor's own sign-in, where it is enabled, knows cookies only; it rarely is.",
    ),
    Setting(
        name="ca_file",
        default=None,
        parse=parsing.optional_path,
        help="PEM file of the authorities whose certificates are accepted. Unset: the operating"
        " system's, and where it has none, those that come with requests.",
        why="What the operating system trusts is the operator's choice already.",
    ),
    Setting(
        name="client_cert_file",
        default=None,
        parse=parsing.optional_path,
        help="PEM file with the certificate to show to processor_url, and its chain.",
        why="Few receivers ask for one.",
    ),
    Setting(
        name="client_key_file",
        default=None,
        parse=parsing.optional_path,
        help="PEM file with the key of client_cert_file, without a passphrase. Unset: the key"
        " stands in client_cert_file too.",
        why="Nobody is there to type a passphrase when a service starts.",
    ),
    Setting(
        name="proxy",
        default="",
        parse=parsing.proxy,
        help="URL of an HTTP proxy for all requests, or `environment`: what HTTP_PROXY, HTTPS_PROXY"
        " and NO_PROXY say. Unset: none.",
        why="Receivers stand in the cluster: a proxy of the node's environment is for the world"
        " outside, and would take telemetry there.",
    ),
    Setting(
        name="numbers_only",
        default=False,
        parse=parsing.switch,
        help="Leave out values that are no numbers instead of sending their steps to /wandb/logs.",
        why="What the user has logged arrives.",
    ),
    Setting(
        name="rank_prefix",
        default=True,
        parse=parsing.switch,
        help="Send the metrics of ranks other than 0 as rank<R>/<name>.",
        why="All ranks of a workload share the same rows, and would overwrite each other's values.",
    ),
    Setting(
        name="api_reporting",
        default=True,
        parse=parsing.switch,
        alias="PRIMUS_LENS_WANDB_API_REPORTING",
        help="false: send nothing; everything stays in the spools.",
        why="Shipping is what the service is for.",
    ),
    Setting(
        name="save_local",
        default=True,
        parse=parsing.switch,
        alias="PRIMUS_LENS_WANDB_SAVE_LOCAL",
        help="false: delete segments as soon as every sink has them instead of keeping them for"
        " replay.",
        why="A receiver that loses its database can be filled again.",
    ),
    Setting(
        name="retain_seconds",
        default=86400.0,
        parse=parsing.number(0, 10 * 366 * 86400),
        help="How long delivered segments are kept for replay.",
        why="A day: a receiver's trouble of the night is noticed in the morning.",
    ),
    Setting(
        name="retain_bytes",
        default=1024 * _MIB,
        parse=parsing.integer(0, 2**60),
        help="How many bytes of delivered segments are kept under the root; the oldest go first.",
        why="1 GiB holds millions of steps and is little of a node's disk.",
    ),
    Setting(
        name="root_bytes",
        default=0,
        parse=parsing.integer(0, 2**60),
        help="Bytes of disk that all spools under the root may take; 0: no limit. Delivered"
        " segments go first, whatever retention says.",
        why="Each spool has a limit of its own; only the operator knows the disk.",
    ),
    Setting(
        name="when_full",
        default="drop-newest",
        parse=parsing.choice(*POLICIES),
        help="What gives way when root_bytes is reached and nothing delivered is left to delete:"
        " drop-newest has the training processes refuse new records, drop-oldest deletes the"
        " oldest segments. Both are counted.",
        why="What was promised to be kept stays; what is refused is known at once.",
    ),
    Setting(
        name="dead_letter_count",
        default=100_000,
        parse=parsing.integer(0, 10**9),
        help="How many dead letters are kept; beyond it the oldest are given up, and counted.",
        why="Far more than anyone looks through, and still listed in a second.",
    ),
    Setting(
        name="dead_letter_bytes",
        default=256 * _MIB,
        parse=parsing.integer(0, 2**50),
        help="How many bytes of dead letters are kept; beyond it the oldest are given up.",
        why="Keeps the state directory below half a gigabyte.",
    ),
    Setting(
        name="quarantine_bytes",
        default=1024 * _MIB,
        parse=parsing.integer(0, 2**50),
        help="How many bytes of damaged segments are kept; beyond it the oldest are deleted, their"
        " reports stay.",
        why="What they still held is delivered by then: they are kept for people to look at.",
    ),
    Setting(
        name="rescan_seconds",
        default=30.0,
        parse=parsing.number(0.1, 3600),
        help="How often the root is walked in case the kernel's notice of a new spool was lost.",
        why="A walk costs milliseconds, and a lost notice is rare.",
    ),
    Setting(
        name="pod_directories",
        default=False,
        parse=parsing.switch,
        help="The folders right below the root are named by pod uids and mounted by one pod each"
        " (subPathExpr): that name counts, whatever a spool says of its pod, and spools outside of"
        " such folders are not shipped.",
        why="Only who lays out the root knows that each pod sees nothing but its own folder.",
    ),
    Setting(
        name="workers",
        default=4,
        parse=parsing.integer(1, 64),
        help="Requests in flight to each sink at once, each of another workload; half as many more"
        " for workloads whose requests were not answered in time.",
        why="A node rarely runs more jobs than that at once, and the receiver serves many nodes.",
    ),
    Setting(
        name="http_listen",
        default="127.0.0.1:5367",
        parse=parsing.listen,
        help="HOST:PORT of the page, the metrics and the probes; off: none. They show names of"
        " workloads and loss curves: on other addresses than the loopback let a network policy say"
        " who may see them.",
        why="On the loopback only the node's own users reach it; 5367 is LENS on a telephone's"
        " keys, and nothing known listens there.",
    ),
    Setting(
        name="log_level",
        default="info",
        parse=parsing.choice(*LOG_LEVELS),
        help="debug, info, warning or error.",
        why="info has a line for each change of state and none for each request.",
    ),
    Setting(
        name="log_format",
        default="text",
        parse=parsing.choice(*LOG_FORMATS),
        help="text for people, logfmt or json for machines: one line each, with fields. Towards the"
        " journal, lines begin with their priority and carry no time.",
        why="The first reader is a person at a terminal.",
    ),
    Setting(
        name="log_repeat_seconds",
        default=300.0,
        parse=parsing.number(0, 86400),
        help="The same message about the same subject is logged once in this time; what was held"
        " back is counted in the next one. 0: every time.",
        why="A receiver that comes and goes leaves two lines in five minutes, not hundreds.",
    ),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings, checked. `given` maps a name to where its value came from."""

    spool: Path
    state: Path
    processor_url: str
    master: str
    master_service: str
    master_client: str
    master_message_bytes: int
    master_keep_seconds: float
    master_wait: float
    master_proxy: str
    batch_size: int
    flush_interval: float
    request_bytes: int
    connect_timeout: float
    read_timeout: float
    token_file: Path | None
    cookie_file: Path | None
    ca_file: Path | None
    client_cert_file: Path | None
    client_key_file: Path | None
    proxy: str
    numbers_only: bool
    rank_prefix: bool
    api_reporting: bool
    save_local: bool
    retain_seconds: float
    retain_bytes: int
    root_bytes: int
    when_full: str
    dead_letter_count: int
    dead_letter_bytes: int
    quarantine_bytes: int
    rescan_seconds: float
    pod_directories: bool
    workers: int
    http_listen: str
    log_level: str
    log_format: str
    log_repeat_seconds: float
    given: Mapping[str, str]
    warnings: tuple[str, ...] = ()  # what looks wrong and does not keep anything from working

    def steps_per_request(self, identity: Identity) -> int:
        """The operator's number, else what the job asked for, else the default."""
        asked = identity.batch_size
        if "batch_size" in self.given or asked is None:
            return self.batch_size
        return min(max(asked, 1), 1000)

    def seconds_to_flush(self, identity: Identity) -> float:
        """The operator's interval, else what the job asked for, else the default."""
        asked = identity.flush_interval
        if "flush_interval" in self.given or asked is None:
            return self.flush_interval
        return min(max(asked, 0.05), 3600.0)
