"""The settings of one process: four sources, checked as a whole, every problem named at once.

A value comes from the first of: command line, `LENS_SHIP_<NAME>` in the environment, the TOML file
(keys as in the table), a variable of the exporter whose place lens-ship takes, the default. The
table itself is in `shipper.config.schema`.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shipper.config.schema import BY_NAME, SETTINGS, Config, Setting
from shipper.errors import ConfigError
from shipper.http_client import tls
from shipper.http_client.redact import masked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["SETTINGS", "Config", "Setting", "default_state", "load"]

# Variables of this prefix that are no settings: options of single commands.
OPTION_VARIABLES = ("LENS_SHIP_CONFIG", "LENS_SHIP_TIMEOUT", "LENS_SHIP_DEMO_DLROVER")
# What Kubernetes sets in every pod beside a Service called lens-ship.
_OF_KUBERNETES = re.compile(r"LENS_SHIP_(SERVICE_(HOST|PORT(_.+)?)|PORT(_\d+_(TCP|UDP).*)?)")


def load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None = None,
    *,
    needs_spool: bool = True,
    sends: bool = False,
) -> Config:
    """Gather the settings and check them all; `sends`: the files they name are needed too.

    Raises:
        ConfigError: naming every problem at once.
    """
    problems: list[str] = []
    from_file = _read_file(file, problems) if file else {}
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for setting in SETTINGS:
        source, raw = _find(setting, flags, environ, from_file, file)
        values[setting.name] = setting.default
        if source:
            given[setting.name] = source
            try:
                values[setting.name] = setting.parse(raw)
            except (ValueError, TypeError, OverflowError) as error:
                shown = masked(raw) if isinstance(raw, str) else raw
                problems.append(f"{source}: {shown!r} {_reason(error)}")
    if values["state"] is None:
        values["state"] = default_state(environ)
    if values["spool"] is None:
        values["spool"] = Path()
        if needs_spool and "spool" not in given:
            problems.append(
                "no spool root: give --spool DIR, LENS_SHIP_SPOOL or PRIMUS_LENS_WANDB_OUTPUT_PATH"
            )
    problems += _contradictions(values, given)
    problems += _unusable_files(values, given) if sends else []
    if problems:
        raise ConfigError(problems)
    return Config(**values, given=given, warnings=tuple(_strangers(environ)))


def default_state(environ: Mapping[str, str] | None = None) -> Path:
    """Systemd's state directory, else /var/lib for root, else the user's own."""
    environ = os.environ if environ is None else environ
    given = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    if os.geteuid() == 0:
        return Path("/var/lib/lens-ship")
    home = environ.get("XDG_STATE_HOME", "")
    return (Path(home) if home else Path.home() / ".local" / "state") / "lens-ship"


def _reason(error: Exception) -> str:
    text = str(error)
    return text if text.startswith(("is ", "are ")) else f"is not usable ({masked(text)})"


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
    if setting.credential and environ.get("CREDENTIALS_DIRECTORY"):
        provided = Path(environ["CREDENTIALS_DIRECTORY"]) / setting.credential
        if provided.exists():
            return "$CREDENTIALS_DIRECTORY", str(provided)
    return "", None


def _read_file(file: Path, problems: list[str]) -> Mapping[str, Any]:
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        problems.append(f"{file}: {error}")
        return {}
    for name in table:
        if name not in BY_NAME:
            meant = _meant(name, BY_NAME) or f"; there are {', '.join(sorted(BY_NAME))}"
            problems.append(f"{file}: {name}: no such setting{meant}")
    return table


# --- settings that are good alone and not together ------------------------------------------------


def _contradictions(values: Mapping[str, Any], given: Mapping[str, str]) -> Iterator[str]:
    if "spool" in given and values["spool"] is not None:
        root, state = (Path(os.path.abspath(values[name])) for name in ("spool", "state"))
        if state == root or root in state.parents:
            yield (
                f"state: {state} lies inside the spool root {root}, where training jobs write: give"
                " the service's own database another directory with --state"
            )
    if {"retain_bytes", "root_bytes"} <= given.keys() and (
        0 < values["root_bytes"] < values["retain_bytes"]
    ):
        yield (
            f"retain_bytes: {values['retain_bytes']} is more than root_bytes {values['root_bytes']}"
            " lets all spools take: lower the one or raise the other"
        )
    if values["client_key_file"] and not values["client_cert_file"]:
        yield "client_key_file: a key without a certificate: give client_cert_file too"
    for name in ("token_file", "cookie_file", "client_cert_file"):
        asked = name in given and given[name] != "$CREDENTIALS_DIRECTORY"
        if asked and values[name] and "processor_url" not in given:
            yield (
                f"{name}: it is sent to processor_url only, never to an address that a job has"
                " recorded: give processor_url too"
            )


_FILES = ("token_file", "cookie_file", "ca_file", "client_cert_file", "client_key_file")


def _unusable_files(values: Mapping[str, Any], given: Mapping[str, str]) -> Iterator[str]:
    for name in _FILES:
        if values[name] is None:
            continue
        try:
            with open(values[name], "rb") as opened:
                empty = not opened.read(1)
        except OSError as error:
            path = str(values[name])
            # Somebody may have put the secret itself where the name of its file belongs.
            shown = path if os.sep in path else "what is given there"
            yield (
                f"{given[name]}: {shown} cannot be read ({error.strerror}); it is the name of a"
                f" file that uid {os.geteuid()}, gid {os.getegid()} may read"
            )
            continue
        if empty:
            yield f"{given[name]}: {values[name]} is empty"
    certificate, key = values["client_cert_file"], values["client_key_file"]
    if certificate and os.access(certificate, os.R_OK) and (not key or os.access(key, os.R_OK)):
        problem = tls.pair_problem(certificate, key)
        yield from [f"{given['client_cert_file']}: {problem}"] if problem else []
    if values["ca_file"] and os.access(values["ca_file"], os.R_OK):
        problem = tls.authorities_problem(values["ca_file"])
        yield from [f"{given['ca_file']}: {problem}"] if problem else []


# --- variables that nobody reads ------------------------------------------------------------------


def _strangers(environ: Mapping[str, str]) -> Iterator[str]:
    known = {*(setting.variable for setting in SETTINGS), *OPTION_VARIABLES}
    for name in sorted(environ):
        if name in known or not name.startswith("LENS_SHIP_"):
            continue
        if _OF_KUBERNETES.fullmatch(name):
            continue
        yield f"{name}: no such setting, it is not used{_meant(name, known)}"


def _meant(name: str, known: Mapping[str, Any] | set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""
