"""What opens a receiver's door: token, cookie, certificates, proxy; read from files, never shown.

Rules:

- Secrets go to the origin of the operator's own URL and to nothing else: a job may record any
  address it likes, and must not be sent a token for that.
- Files are read again when they change, so that what is rotated needs no restart.
- Nothing here is ever printed: `repr` names files, and `hide` takes out of an answer what a
  receiver echoes.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from shipper.errors import Unreachable
from shipper.http_client import tls

if TYPE_CHECKING:
    from shipper.config.schema import Config

_LARGEST = 64 * 1024  # bytes of a token
_PORTS = {"http": 80, "https": 443}
_HIDDEN = b"***"

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The files and the proxy of one configuration; the default opens nothing."""

    url: str = ""  # whose origin the secrets are for
    token_file: Path | None = None
    cookie_file: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str = ""

    @classmethod
    def of(cls, config: Config) -> Credentials:
        """As the settings say."""
        return cls(
            url=config.processor_url,
            token_file=config.token_file,
            cookie_file=config.cookie_file,
            ca_file=config.ca_file,
            client_cert_file=config.client_cert_file,
            client_key_file=config.client_key_file,
            proxy=config.proxy,
        )

    def is_for(self, url: str) -> bool:
        """Whether secrets may be sent to `url`."""
        return bool(self.url) and _origin(url) == _origin(self.url)

    def stamp(self) -> Stamp:
        """Changes when one of the files does, or comes or goes."""
        files = (self.token_file, self.cookie_file, self.ca_file, *self._pair())
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
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if cookie:
            headers["Cookie"] = cookie
        certificate, key = self._pair()
        return LoadedCredentials(
            headers=headers,
            secrets=tuple(secret.encode() for secret in (token, cookie) if secret),
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
    """The keys of an `Access`, read again when a file has changed; safe for several threads."""

    def __init__(self, access: Credentials) -> None:
        self.access = access
        self._lock = threading.Lock()
        self._stamp: Stamp | None = None
        self._keys: LoadedCredentials | None = None

    def keys(self) -> LoadedCredentials:
        """The keys as the files are now; the same object while they are the same.

        Raises:
            Unreachable: as `Access.read`.
        """
        with self._lock:
            stamp = self.access.stamp()
            if self._keys is None or stamp != self._stamp:
                self._keys = None
                self._keys = self.access.read()
                self._stamp = stamp
            return self._keys


def _secret(file: Path | None, name: str) -> str:
    if file is None:
        return ""
    try:
        with open(file, "rb") as opened:
            raw = opened.read(_LARGEST + 1).strip()
    except OSError as error:
        raise _unusable(f"{name}: {file} cannot be read ({error.strerror})") from error
    if not raw:
        raise _unusable(f"{name}: {file} is empty")
    if len(raw) > _LARGEST or not raw.isascii() or not raw.decode("ascii").isprintable():
        raise _unusable(f"{name}: {file} holds what cannot stand in a header of one line")
    return raw.decode("ascii")


def _demand(problem: str) -> None:
    if problem:
        raise _unusable(problem)


def _unusable(text: str) -> Unreachable:
    return Unreachable("no-credential", f"{text}; sent again when the file is right", sent=False)


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
