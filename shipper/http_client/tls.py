"""What a failed TLS handshake means and what to do about it; how long a certificate holds.

Everything here is told, nothing decided: whatever fails is retried.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

# A part of OpenSSL's text -> what it means and what to do; the first that fits counts.
_ADVICE = (
    (
        ("certificate has expired",),
        "the receiver's certificate has expired: renew it there, and check the clock of this host",
    ),
    (
        ("certificate is not yet valid",),
        "the receiver's certificate is not valid yet: check the clocks of both hosts",
    ),
    (
        ("hostname mismatch", "ip address mismatch", "doesn't match"),
        (
            "the receiver's certificate is for another name: use a name of the certificate in"
            " the URL"
        ),
    ),
    (
        ("self-signed certificate", "self signed certificate", "unable to get local issuer"),
        (
            "the receiver's certificate is signed by an authority that is not trusted: set"
            " ca_file to that authority's certificate"
        ),
    ),
    (
        ("alert unknown ca", "alert bad certificate", "alert certificate unknown"),
        (
            "the receiver does not accept client_cert_file: have it signed by an authority that the"
            " receiver trusts"
        ),
    ),
    (
        ("alert certificate expired",),
        "client_cert_file has expired: renew it; it is read again without a restart",
    ),
    (
        ("certificate required", "alert handshake failure", "peer did not return a certificate"),
        "the receiver asks for a client certificate: set client_cert_file and client_key_file",
    ),
    (
        ("wrong version number", "record layer failure", "packet length", "unknown protocol"),
        "the receiver does not speak TLS on this port: use its TLS port, or http://",
    ),
    (
        ("eof occurred", "unexpected eof"),
        (
            "the receiver hung up during the handshake: it may ask for a client certificate, see"
            " client_cert_file"
        ),
    ),
    (("key values mismatch",), "client_key_file is not the key of client_cert_file"),
)


def advice(text: str) -> str:
    """The next step for OpenSSL's complaint `text`, or ""."""
    lowered = text.lower().replace("_", " ")
    return next((step for signs, step in _ADVICE if any(s in lowered for s in signs)), "")


def pair_problem(certificate: Path, key: Path | None) -> str:
    """Why this client certificate and key cannot be used, or ""."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # Without a password of our own OpenSSL would ask for one at the terminal, and wait.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except ssl.SSLError as error:
        text = str(error)
        reason = advice(text) or (
            "it needs a key without a passphrase, both as PEM"
            if "PEM" in text or "decrypt" in text.lower() or "password" in text.lower()
            else text
        )
        return f"{certificate} cannot be used as client certificate: {reason}"
    except (OSError, ValueError) as error:
        return f"{certificate} cannot be used as client certificate: {error}"
    return ""


def authorities_problem(file: Path) -> str:
    """Why this file of authorities cannot be used, or ""."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (ssl.SSLError, OSError, ValueError) as error:
        return f"{file} holds no certificates that can be used ({error}): it has to be PEM"
    return ""


def system_authorities() -> str | None:
    """Where the operating system keeps the authorities it trusts; None where it has none."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile:
        return paths.cafile
    folder = Path(paths.capath or "")
    return str(folder) if paths.capath and any(folder.iterdir()) else None


def expiry_of(
    host: str, port: int, *, seconds: float, authorities: str | None, pair: tuple[str, str | None]
) -> float:
    """Shake hands; until when the receiver's certificate is valid, Unix seconds.

    Raises:
        OSError: no connection, or a handshake that fails (`ssl.SSLError`).
    """
    context = ssl.create_default_context(
        cafile=authorities if authorities and Path(authorities).is_file() else None,
        capath=authorities if authorities and Path(authorities).is_dir() else None,
    )
    if pair[0]:
        context.load_cert_chain(pair[0], pair[1], password=lambda: b"")
    with (
        socket.create_connection((host, port), timeout=seconds) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        certificate = secured.getpeercert() or {}
    until = certificate.get("notAfter")
    return ssl.cert_time_to_seconds(until) if isinstance(until, str) else float("inf")
