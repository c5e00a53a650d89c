"""Credentials of an HTTP client: token, cookie, headers, certificates, proxy; read from files.

Rules:

- Secrets are sent to the origin of the operator's own URL only. A job may record any address, and
  must not receive a token for that.
- Files are read again when they change, so that a rotated credential needs no restart.
- Nothing here is ever printed: `repr` names files, and `hide` removes from an answer what a
  receiver echoes.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from shipper.errors import Unreachable
from shipper.http_client import tls

_LARGEST = 64 * 1024  # bytes of a token
_PORTS = {"http": 80, "https": 443}
_HIDDEN = b"***"

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The files and the proxy of one configuration; without any, requests carry no secret."""

    url: str = ""  # whose origin the secrets are for
    token_file: Path | None = None
    cookie_file: Path | None = None
    headers_file: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str = ""

    def is_for(self, url: str) -> bool:
        """Whether secrets may be sent to `url`."""
        return bool(self.url) and _origin(url) == _origin(self.url)

    def stamp(self) -> Stamp:
        """Changes when one of the files does, or comes or goes."""
        files = (self.token_file, self.cookie_file, self.headers_file, self.ca_file, *self._pair())
        return tuple(_stamp(file) for file in files if file is not None)

    def _pair(self) -> tuple[Path | None, Path | None]:
        return self.client_cert_file, self.client_key_file

    def read(self) -> LoadedCredentials:
        """Read all files as they are now.

        Raises:
            Unreachable: one of them cannot be used; nothing is to be sent without it.
        """
        token = _secret(self.token_file, "token_file")
        cookie = _secret(self.cookie_file, "cookie_file")
        if self.client_cert_file is not None:
            _demand(tls.pair_problem(self.client_cert_file, self.client_key_file))
        if self.ca_file is not None:
            _demand(tls.authorities_problem(self.ca_file))
        headers = _headers(self.headers_file)
        more = tuple(headers.values())
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if cookie:
            headers["Cookie"] = cookie
        certificate, key = self._pair()
        return LoadedCredentials(
            headers=headers,
            secrets=tuple(secret.encode() for secret in (token, cookie, *more) if secret),
            authorities=str(self.ca_file) if self.ca_file else tls.system_authorities(),
            pair=(str(certificate or ""), str(key) if key else None),
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class LoadedCredentials:
    """What the files held at one moment."""

    headers: dict[str, str]
    secrets: tuple[bytes, ...]
    authorities: str | None
    pair: tuple[str, str | None]  # client certificate ("" for none) and key

    def hide(self, text: bytes) -> bytes:
        """`text` without the secrets: a receiver may echo what it was sent."""
        for secret in self.secrets:
            text = text.replace(secret, _HIDDEN)
        return text


class CredentialCache:
    """What the files hold, read again when one of them has changed; safe for several threads."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._loaded: LoadedCredentials | None = None

    def load(self) -> LoadedCredentials:
        """The same object while the files are the same.

        Raises:
            Unreachable: a file cannot be used.
        """
        with self._lock:
            stamp = self.credentials.stamp()
            if self._loaded is None or stamp != self._stamp:
                self._loaded = None
                self._loaded = self.credentials.read()
                self._stamp = stamp
            return self._loaded


def file_problems(files: Mapping[str, Any], sources: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with credential files, by option; `sources` says where each was given."""
    readable = set()
    for name, file in files.items():
        if file is None:
            continue
        try:
            with open(file, "rb") as opened:
                empty = not opened.read(1)
        except OSError as error:
            # The value may be the secret itself instead of the name of its file.
            shown = str(file) if os.sep in str(file) else "the given value"
            yield (
                f"{sources[name]}: {shown} cannot be read ({error.strerror}). It has to be the name"
                f" of a file that uid {os.geteuid()}, gid {os.getegid()} may read"
            )
            continue
        readable.add(name)
        if empty:
            yield f"{sources[name]}: {file} is empty"
    key = files.get("client_key_file")
    if "client_cert_file" in readable and (key is None or "client_key_file" in readable):
        problem = tls.pair_problem(files["client_cert_file"], key)
        yield from [f"{sources['client_cert_file']}: {problem}"] if problem else []
    if "ca_file" in readable:
        problem = tls.authorities_problem(files["ca_file"])
        yield from [f"{sources['ca_file']}: {problem}"] if problem else []


def _secret(file: Path | None, name: str) -> str:
    """The one line of a file."""
    text = _text(file, name)
    if not text.isprintable():
        raise _unusable(f"{name}: {file} holds what cannot be part of one header line")
    return text


def _headers(file: Path | None) -> dict[str, str]:
    """The headers of a file with lines `Name: value`."""
    headers = {}
    for line in _text(file, "headers_file").splitlines():
        name, colon, value = line.partition(":")
        if not line.strip():
            continue
        if not colon or not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name) or not value.isprintable():
            raise _unusable(f"headers_file: {file} has a line that is not `Name: value`")
        headers[name] = value.strip()
    return headers


def _text(file: Path | None, name: str) -> str:
    if file is None:
        return ""
    try:
        with open(file, "rb") as opened:
            raw = opened.read(_LARGEST + 1).strip()
    except OSError as error:
        raise _unusable(f"{name}: {file} cannot be read ({error.strerror})") from error
    if not raw:
        raise _unusable(f"{name}: {file} is empty")
    if len(raw) > _LARGEST or not raw.isascii():
        raise _unusable(f"{name}: {file} holds what cannot be part of one header line")
    return raw.decode("ascii")


def _demand(problem: str) -> None:
    if problem:
        raise _unusable(problem)


def _unusable(text: str) -> Unreachable:
    return Unreachable("no-credential", f"{text}; retried when the file is correct", sent=False)


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme)
        return parts.scheme, (parts.hostname or "").lower(), port
    except ValueError:
        return "", "", None
