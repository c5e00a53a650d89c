"""Every setting of the service: one table, four sources, checked as a whole.

A value comes from the first of: command line, `LENS_SHIP_<NAME>` in the environment, the TOML file
(keys as in the table), a variable of the exporter whose place lens-ship takes, the default.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shipper.errors import ConfigError
from spooler.spool.identity import Identity

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

POLICIES = ("drop-newest", "drop-oldest")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row: `alias` is the older exporter's variable of the same meaning."""

    name: str
    default: Any
    parse: Callable[[Any], Any]
    help: str
    alias: str = ""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"LENS_SHIP_{self.name.upper()}"

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return f"--{self.name.replace('_', '-')}"


def _path(value: Any) -> Path:
    if not str(value):
        raise ValueError("is empty")
    return Path(str(value)).expanduser()


def _url(value: Any) -> str:
    text = str(value).strip().rstrip("/")
    if text and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname):
        raise ValueError("is no http:// or https:// URL")
    return text


def _number(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError("is no number")
        number = float(value)
        if not low <= number <= high:
            raise ValueError(f"is outside {low:g} … {high:g}")
        return number

    return parse


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool):
            raise ValueError("is no whole number")
        number = int(value)
        if isinstance(value, float) and number != value:
            raise ValueError("is no whole number")
        if not low <= number <= high:
            raise ValueError(f"is outside {low} … {high}")
        return number

    return parse


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise ValueError("is neither true nor false")


def _level(value: Any) -> str:
    text = str(value).strip().lower()
    if text not in LOG_LEVELS:
        raise ValueError(f"is none of {', '.join(LOG_LEVELS)}")
    return text


def _policy(value: Any) -> str:
    text = str(value).strip().lower()
    if text not in POLICIES:
        raise ValueError(f"is none of {', '.join(POLICIES)}")
    return text


def default_state() -> Path:
    """Systemd's state directory, else /var/lib for root, else the user's own."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/lens-ship")
    home = os.environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home else Path.home() / ".local" / "state") / "lens-ship"


SETTINGS = (
    Setting(
        name="spool",
        default=None,
        parse=_path,
        alias="PRIMUS_LENS_WANDB_OUTPUT_PATH",
        help="Spool root; the folder the training jobs record to.",
    ),
    Setting(
        name="state",
        default=None,
        parse=_path,
        help="Directory of this service's own database. Default: $STATE_DIRECTORY,"
        " /var/lib/lens-ship for root, ~/.local/state/lens-ship for others.",
    ),
    Setting(
        name="processor_url",
        default="",
        parse=_url,
        alias="PRIMUS_LENS_API_BASE_URL",
        help="Base URL of the telemetry-processor, with its /v1. Unset: what each job recorded.",
    ),
    Setting(
        name="batch_size",
        default=100,
        parse=_integer(1, 1000),
        alias="PRIMUS_LENS_WANDB_BATCH_SIZE",
        help="Steps per request at most. The processor stores steps one by one, so more than"
        " 100 gains nothing and makes a request slow.",
    ),
    Setting(
        name="flush_interval",
        default=5.0,
        parse=_number(0.05, 3600),
        alias="PRIMUS_LENS_WANDB_FLUSH_INTERVAL",
        help="Seconds a record waits at most before it is sent, when nothing is in the way.",
    ),
    Setting(
        name="request_bytes",
        default=512 * 1024,
        parse=_integer(1024, 64 * 1024 * 1024),
        help="Bytes of a request at most (a single larger step travels alone); half of what"
        " common proxies let pass.",
    ),
    Setting(
        name="connect_timeout",
        default=5.0,
        parse=_number(0.1, 600),
        help="Seconds to wait for a connection.",
    ),
    Setting(
        name="read_timeout",
        default=30.0,
        parse=_number(0.1, 3600),
        help="Seconds to wait for an answer. The processor drops what it has not stored yet when"
        " the client hangs up, so patience is cheaper than a repetition.",
    ),
    Setting(
        name="numbers_only",
        default=False,
        parse=_switch,
        help="Leave out values that are no numbers instead of sending their steps to /wandb/logs.",
    ),
    Setting(
        name="rank_prefix",
        default=True,
        parse=_switch,
        help="Send the metrics of ranks other than 0 as rank<R>/<name>; all ranks of a workload"
        " share the same rows.",
    ),
    Setting(
        name="api_reporting",
        default=True,
        parse=_switch,
        alias="PRIMUS_LENS_WANDB_API_REPORTING",
        help="false: send nothing; everything stays in the spools.",
    ),
    Setting(
        name="save_local",
        default=True,
        parse=_switch,
        alias="PRIMUS_LENS_WANDB_SAVE_LOCAL",
        help="false: delete segments as soon as every sink has them instead of keeping them for"
        " replay.",
    ),
    Setting(
        name="retain_seconds",
        default=86400.0,
        parse=_number(0, 10 * 366 * 86400),
        help="How long delivered segments are kept for replay.",
    ),
    Setting(
        name="retain_bytes",
        default=1024 * 1024 * 1024,
        parse=_integer(0, 2**60),
        help="How many bytes of delivered segments are kept under the root; the oldest go first.",
    ),
    Setting(
        name="root_bytes",
        default=0,
        parse=_integer(0, 2**60),
        help="Bytes of disk that all spools under the root may take; 0: no limit. Delivered"
        " segments go first, whatever retention says.",
    ),
    Setting(
        name="when_full",
        default="drop-newest",
        parse=_policy,
        help="What gives way when root_bytes is reached and nothing delivered is left to delete:"
        " drop-newest has the training processes refuse new records, drop-oldest deletes the"
        " oldest segments. Both are counted.",
    ),
    Setting(
        name="dead_letter_count",
        default=100_000,
        parse=_integer(0, 10**9),
        help="How many dead letters are kept; beyond it the oldest are given up, and counted.",
    ),
    Setting(
        name="dead_letter_bytes",
        default=256 * 1024 * 1024,
        parse=_integer(0, 2**50),
        help="How many bytes of dead letters are kept; beyond it the oldest are given up.",
    ),
    Setting(
        name="rescan_seconds",
        default=30.0,
        parse=_number(0.1, 3600),
        help="How often the root is walked in case the kernel's notice of a new spool was lost.",
    ),
    Setting(
        name="workers",
        default=4,
        parse=_integer(1, 64),
        help="Requests in flight at once, each of another workload.",
    ),
    Setting(
        name="log_level",
        default="info",
        parse=_level,
        help="debug, info, warning or error.",
    ),
)
_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings above, checked. `given` maps a name to where its value came from."""

    spool: Path
    state: Path
    processor_url: str
    batch_size: int
    flush_interval: float
    request_bytes: int
    connect_timeout: float
    read_timeout: float
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
    rescan_seconds: float
    workers: int
    log_level: str
    given: Mapping[str, str]

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


def load(flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> Config:
    """Gather the settings and check them all.

    Raises:
        ConfigError: naming every problem at once.
    """
    problems: list[str] = []
    from_file = _read_file(file, problems) if file else {}
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for setting in SETTINGS:
        source, raw = _find(setting, flags, environ, from_file, file)
        if source:
            given[setting.name] = source
            try:
                values[setting.name] = setting.parse(raw)
            except (ValueError, TypeError, OverflowError) as error:
                problems.append(f"{source}: {raw!r} {_reason(error)}")
        else:
            values[setting.name] = setting.default
    if values.get("state") is None:
        values["state"] = default_state()
    if "spool" not in given:
        problems.append(
            "no spool root: give --spool DIR, LENS_SHIP_SPOOL or PRIMUS_LENS_WANDB_OUTPUT_PATH"
        )
    if problems:
        raise ConfigError(problems)
    return Config(**values, given=given)


def _reason(error: Exception) -> str:
    text = str(error)
    return text if text.startswith(("is ", "are ")) else f"is not usable ({text})"


def _find(
    setting: Setting,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    from_file: Mapping[str, Any],
    file: Path | None,
) -> tuple[str, Any]:
    if flags.get(setting.name) is not None:
        return setting.flag, flags[setting.name]
    if environ.get(setting.variable):
        return setting.variable, environ[setting.variable]
    if setting.name in from_file:
        return f"{file}: {setting.name}", from_file[setting.name]
    if setting.alias and environ.get(setting.alias):
        return setting.alias, environ[setting.alias]
    return "", None


def _read_file(file: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{file}: {error}")
        return {}
    for name in table:
        if name not in _BY_NAME:
            known = ", ".join(sorted(_BY_NAME))
            problems.append(f"{file}: {name}: no such setting; there are {known}")
    return table
