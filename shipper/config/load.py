"""Reads the settings from all sources, checks them together, and reports every problem at once.

A value comes from the first of: command line, `LENS_SHIP_<NAME>` in the environment, the TOML file,
a variable of another tool (`alias`), a systemd credential, the default.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from shipper.config.schema import SETTINGS, SINK_SETTINGS, Config, Setting, settings_of
from shipper.errors import ConfigError
from shipper.http_client.credentials import file_problems
from shipper.http_client.redact import masked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["SETTINGS", "Config", "default_state", "load", "read_options"]

NO_ROOT = "no spool root: give --spool DIR, LENS_SHIP_SPOOL or PRIMUS_LENS_WANDB_OUTPUT_PATH"
# Variables of this prefix that are options of single commands, not settings.
OPTION_VARIABLES = ("LENS_SHIP_CONFIG", "LENS_SHIP_TIMEOUT")
# Kubernetes sets these in every pod when there is a Service called lens-ship.
_OF_KUBERNETES = re.compile(r"LENS_SHIP_(SERVICE_(HOST|PORT(_.+)?)|PORT(_\d+_(TCP|UDP).*)?)")

T = TypeVar("T")


def load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None = None,
    *,
    needs_spool: bool = True,
    sends: bool = False,
    check_sinks: Callable[[Mapping[str, Any], str], Iterable[str]] | None = None,
) -> Config:
    """Read and check all settings; with `sends`, also check the files that they name.

    `flags` may have `sinks`, tables beside those of the file. `check_sinks` returns the problems of
    the tables [sinks.NAME], each beginning with its second argument.

    Raises:
        ConfigError: with every problem.
    """
    table, problems = _read_file(file) if file else ({}, [])
    sinks = table.pop("sinks", {})
    if not isinstance(sinks, dict) or not all(isinstance(one, dict) for one in sinks.values()):
        problems.append(f"{file}: sinks: is not a set of tables [sinks.NAME]")
        sinks = {}
    problems += _unknown_keys(table, [setting.name for setting in SETTINGS], f"{file}")
    values, given, bad = _values(SETTINGS, table, f"{file}", flags, environ)
    problems += bad
    for name, options in sinks.items():
        given.update({f"sinks.{name}.{key}": f"{file}: [sinks.{name}]" for key in options})
    if values["state"] is None:
        values["state"] = default_state(environ)
    if values["spool"] is None:
        values["spool"] = Path()
        if needs_spool and "spool" not in given:
            problems.append(NO_ROOT)
    problems += _contradictions(values, given)
    more = flags.get("sinks") or {}
    if sinks or more:
        problems += _without_effect(given, f"{file}")
        problems += check_sinks(sinks, f"{file}: ") if check_sinks else []
    if sends:
        problems += file_problems({name: values[name] for name in _FILES}, given)
    if problems:
        raise ConfigError(problems)
    sinks = {**sinks, **more}
    return Config(**values, sinks=sinks, given=given, warnings=tuple(_unknown_variables(environ)))


def read_options(
    cls: type[T],
    table: Mapping[str, Any],
    where: str,
    environ: Mapping[str, str],
) -> tuple[T, list[str]]:
    """Build a dataclass of settings from a TOML table.

    Args:
        cls: a frozen dataclass with fields made by `setting()`. If it has a field `given`, it
            receives a map from a field's name to the source of its value.
        table: the values by field name. An unknown key is a problem.
        where: the table in words, which begin every problem: "/etc/lens-ship.toml: [sinks.a]".
        environ: the variables that count where the table has no value.

    Returns:
        The options, with the default in place of each unusable value, and all problems.
    """
    settings = settings_of(cls)
    problems = _unknown_keys(table, [setting.name for setting in settings], where)
    values, given, bad = _values(settings, table, where, {}, environ)
    if "given" in getattr(cls, "__dataclass_fields__", {}):
        values["given"] = given
    return cls(**values), problems + bad


def default_state(environ: Mapping[str, str] | None = None) -> Path:
    """Systemd's state directory, else /var/lib for root, else the user's own."""
    environ = os.environ if environ is None else environ
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/lens-ship")
    given = environ.get("XDG_STATE_HOME", "")
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and no entry in the table of users: what stands there for none
        home = Path("/nonexistent")
    return (Path(given) if given else home / ".local" / "state") / "lens-ship"


def _values(
    settings: Iterable[Setting],
    table: Mapping[str, Any],
    where: str,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """By key: the checked values, and where those that are given came from; then all problems."""
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    problems: list[str] = []
    for setting in settings:
        values[setting.name] = setting.default
        found = _candidates(setting, table, where, flags, environ)
        source, raw = next((one for one in found if one[1] is not None), ("", None))
        if not source:
            continue
        given[setting.name] = source
        try:
            values[setting.name] = setting.parse(raw)
        except (ValueError, TypeError, OverflowError) as error:
            shown = masked(raw) if isinstance(raw, str) else raw
            text = str(error)
            reason = text if text.startswith("is ") else f"is not usable ({masked(text)})"
            problems.append(f"{source}: {shown!r} {reason}")
    return values, given, problems


def _candidates(
    setting: Setting,
    table: Mapping[str, Any],
    where: str,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
) -> Iterator[tuple[str, Any]]:
    """Each source and its value, in order; None: it has none. An empty variable is not set."""
    yield setting.flag, flags.get(setting.name)
    yield setting.variable, environ.get(setting.variable) or None
    yield f"{where}: {setting.name}", table.get(setting.name)
    yield setting.alias, environ.get(setting.alias) or None
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if setting.credential and directory and (Path(directory) / setting.credential).exists():
        yield "$CREDENTIALS_DIRECTORY", str(Path(directory) / setting.credential)


def _read_file(file: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8")), []
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, [f"{file}: {error}"]


def _unknown_keys(table: Mapping[str, Any], known: list[str], where: str) -> list[str]:
    every = f"; known are {', '.join(sorted(known))}"
    return [
        f"{where}: {key}: unknown setting{_did_you_mean(key, known) or every}"
        for key in table
        if key not in known
    ]


# --- values that are valid alone but not together -------------------------------------------------


def _contradictions(values: Mapping[str, Any], given: Mapping[str, str]) -> Iterator[str]:
    if "spool" in given and values["spool"] is not None:
        root, state = (Path(os.path.abspath(values[name])) for name in ("spool", "state"))
        if state == root or root in state.parents:
            yield (
                f"state: {state} is inside the spool root {root}, where training jobs write. Give"
                " the service's database another directory with --state"
            )
    if {"retention_bytes", "root_bytes"} <= given.keys() and (
        0 < values["root_bytes"] < values["retention_bytes"]
    ):
        yield (
            f"retention_bytes: {values['retention_bytes']} is more than root_bytes"
            f" {values['root_bytes']} allows for all spools. Lower one or raise the other"
        )
    if values["client_key_file"] and not values["client_cert_file"]:
        yield "client_key_file: a key without a certificate. Give client_cert_file too"
    for name in ("token_file", "cookie_file", "client_cert_file"):
        asked = name in given and given[name] != "$CREDENTIALS_DIRECTORY"
        if asked and values[name] and "processor_url" not in given:
            yield (
                f"{name}: it is sent to processor_url only, never to an address that a job"
                " recorded. Give processor_url too"
            )


def _without_effect(given: Mapping[str, str], file: str) -> Iterator[str]:
    """Settings for sinks that are given although [sinks.NAME] has the options of all sinks."""
    for name in SINK_SETTINGS:
        if given.get(name, "").startswith(("--", "LENS_SHIP_", file)):
            yield f"{given[name]}: has no effect beside [sinks.NAME] and --sink. Give it there"


_FILES = ("token_file", "cookie_file", "ca_file", "client_cert_file", "client_key_file")


# --- likely mistakes ------------------------------------------------------------------------------


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = [*(setting.variable for setting in SETTINGS), *OPTION_VARIABLES]
    for name in sorted(environ):
        ours = name.startswith("LENS_SHIP_") and not _OF_KUBERNETES.fullmatch(name)
        if ours and name not in known:
            yield f"{name}: unknown setting, ignored{_did_you_mean(name, known)}"


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""
