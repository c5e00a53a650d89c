"""Options of sinks: the block that every HTTP sink embeds, and where their values come from."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import spooler
from shipper.config.load import read_options
from shipper.config.parse import optional_path
from shipper.config.schema import SETTINGS, Config, setting, settings_of
from shipper.http_client.client import HttpClient
from shipper.http_client.credentials import Credentials, file_problems

T = TypeVar("T")
_SETTINGS = {one.name: one for one in SETTINGS}
_SHORTHAND = "shorthand"


def like(name: str) -> Any:
    """An option with the declaration of the setting `name`.

    Without [sinks.NAME] the setting is the shorthand for this option.
    """
    declared = dataclasses.replace(_SETTINGS[name], alias="", credential="", section="")
    return field(default=declared.default, metadata={"setting": declared, _SHORTHAND: name})


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """How a sink makes its HTTP requests."""

    url: str = like("processor_url")
    token_file: Path | None = like("token_file")
    cookie_file: Path | None = like("cookie_file")
    headers_file: Path | None = setting(
        None,
        optional_path,
        help="File of further request headers, one `Name: value` per line. They are sent to the"
        " host of url only.",
        why="Most receivers need none.",
    )
    ca_file: Path | None = like("ca_file")
    client_cert_file: Path | None = like("client_cert_file")
    client_key_file: Path | None = like("client_key_file")
    proxy: str = like("proxy")
    connect_timeout: float = like("connect_timeout")
    read_timeout: float = like("read_timeout")
    given: Mapping[str, str] = field(default_factory=dict, compare=False)

    def http(self) -> HttpOptions:
        """These options without those of a subclass; equal for sinks that can share a client."""
        return HttpOptions(**{one.name: getattr(self, one.name) for one in fields(HttpOptions)})

    def credentials(self) -> Credentials:
        names = [one.name for one in fields(Credentials)]
        return Credentials(**{name: getattr(self, name) for name in names})

    def problems(self) -> Iterator[str]:
        """What is wrong with these options together."""
        if self.client_key_file and not self.client_cert_file:
            yield "client_key_file: a key without a certificate. Give client_cert_file too"
        for name in ("token_file", "cookie_file", "headers_file", "client_cert_file"):
            if getattr(self, name) and not self.url:
                yield f"{name}: it is sent to url only. Give url too"


def http_client(options: HttpOptions) -> HttpClient:
    """A client with these options."""
    return HttpClient(
        user_agent=f"lens-ship/{spooler.__version__}",
        connect_seconds=options.connect_timeout,
        read_seconds=options.read_timeout,
        credentials=options.credentials(),
    )


def from_settings(cls: type[T], config: Config) -> T:
    """Options of a sink of today's three, from the settings that are the shorthand for them."""
    names = {
        one.name: one.metadata[_SHORTHAND]
        for one in fields(cls)  # type: ignore[arg-type]
        if _SHORTHAND in one.metadata
    }
    values: dict[str, Any] = {key: getattr(config, name) for key, name in names.items()}
    if any(one.name == "given" for one in fields(cls)):  # type: ignore[arg-type]
        values["given"] = {
            key: config.given[name] for key, name in names.items() if name in config.given
        }
    return cls(**values)


def from_table(cls: type[T], table: Mapping[str, Any], where: str) -> tuple[T, list[str]]:
    """Options from a table [sinks.NAME], and every problem of them; `where` begins each.

    What the table does not give may come from a variable of another tool (`alias`).
    """
    aliases = {one.alias for one in settings_of(cls) if one.alias}
    environ = {name: os.environ[name] for name in aliases & os.environ.keys()}
    options, problems = read_options(cls, table, where, environ)
    together = getattr(options, "problems", None)
    if together is not None and not problems:
        problems += [f"{where}: {one}" for one in together()]
    files = {
        key: value
        for key, value in vars(options).items()
        if key.endswith("_file") and isinstance(value, Path)
    }
    sources = {key: f"{where}: {key}" for key in files}
    return options, problems + list(file_problems(files, sources))
