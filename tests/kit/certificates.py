"""Authorities and certificates made on the spot, and the files that a service is given of them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, kw_only=True)
class Files:
    """Where the files of one authority are."""

    ca: Path
    cert: Path
    key: Path


class Authority:
    """A certificate authority, below one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.ca)

    def files(self, *names: str, expired: bool = False, days: int = 365) -> Files:
        """A certificate for these names, for so many days, or one that ended yesterday."""
        now = datetime.datetime.now(datetime.timezone.utc)
        until = now + datetime.timedelta(days=-1 if expired else days, hours=6)
        issued = self._ca.issue_cert(
            *names, not_before=now - datetime.timedelta(days=60), not_after=until
        )
        stem = f"{names[0]}{'-expired' if expired else ''}"
        cert, key = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return Files(ca=self.ca, cert=cert, key=key)
