"""Functions that turn text, or a TOML value, into the checked value of a setting.

Each raises ValueError with a text that continues the name of the setting: "is outside 1 … 64".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def path(value: Any) -> Path:
    """A path; `~` is the user's home."""
    if not str(value):
        raise ValueError("is empty")
    if "\0" in str(value):
        raise ValueError("has a zero byte, which no path has")
    try:
        return Path(str(value)).expanduser()
    except RuntimeError:
        raise ValueError("names a home directory that is not known here: give it whole") from None


def optional_path(value: Any) -> Path | None:
    """A path, or None for empty text."""
    return path(value) if str(value or "") else None


def url(value: Any) -> str:
    """An http:// or https:// URL without a trailing slash, or "".

    A URL with a password is rejected, because logs and the process list show it.
    """
    text = str(value).strip().rstrip("/")
    if not text:
        return ""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http:// or https:// URL")
    if "@" in parts.netloc:
        raise ValueError(
            "is a URL with a user name or password, which logs and the process list would show."
            " Put a token into token_file, a cookie into cookie_file"
        )
    return text


def proxy(value: Any) -> str:
    """The URL of a proxy, `environment` for the proxies that the environment names, or ""."""
    text = str(value).strip()
    return text if text == "environment" else url(text)


def address(value: Any) -> str:
    """HOST:PORT or "". An IPv6 address gets brackets."""
    text = str(value).strip()
    if not text:
        return ""
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    good = bool(bare) and port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    if not good or re.search(r"[/@\s]", text) or (":" in bare and not _is_ipv6(bare)):
        raise ValueError("is not HOST:PORT")
    return f"[{bare}]:{port}" if ":" in bare else f"{host}:{port}"


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.partition("%")[0]).version == 6
    except ValueError:
        return False


def object_name(value: Any) -> str:
    """The import name of an object, `package.module:name`, or ""."""
    text = str(value).strip()
    module, _, name = text.partition(":")
    if text and not (module and name):
        raise ValueError("is not package.module:name")
    return text


def names(value: Any) -> str:
    """Names with ", " between them, or ""."""
    found = [name.strip() for name in str(value).split(",")]
    if found == [""]:
        return ""
    if "" in found:
        raise ValueError("is not a list of names with commas between: one is empty")
    return ", ".join(found)


def number(low: float, high: float) -> Callable[[Any], float]:
    """A number from `low` to `high`."""

    def parse(value: Any) -> float:
        parsed: float = _converted(value, float, "is not a number")
        if not low <= parsed <= high:
            raise ValueError(f"is outside {low:g} … {high:g}")
        return parsed

    return parse


def integer(low: int, high: int) -> Callable[[Any], int]:
    """A whole number from `low` to `high`."""

    def parse(value: Any) -> int:
        parsed: int = _converted(value, int, "is not a whole number")
        if isinstance(value, float) and parsed != value:
            raise ValueError("is not a whole number")
        if not low <= parsed <= high:
            raise ValueError(f"is outside {low} … {high}")
        return parsed

    return parse


def _converted(value: Any, kind: type[float] | type[int], complaint: str) -> Any:
    if isinstance(value, bool):
        raise ValueError(complaint)
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(complaint) from error


def switch(value: Any) -> bool:
    """True or false, in the usual words."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1", "yes", "on"):
        return True
    if text in ("false", "0", "no", "off"):
        return False
    raise ValueError("is neither true nor false")


def choice(*words: str) -> Callable[[Any], str]:

    def parse(value: Any) -> str:
        text = str(value).strip().lower()
        if text not in words:
            raise ValueError(f"is not one of {', '.join(word for word in words if word)}")
        return text

    return parse


def listen(value: Any) -> str:
    """HOST:PORT, [IPv6]:PORT, :PORT for every address, or `off`."""
    text = str(value).strip()
    if text.lower() in ("", "off", "none"):
        return "off"
    host_and_port(text)
    return text


def host_and_port(text: str) -> tuple[str, int]:
    """Both parts of a value of `listen`; an empty host becomes 0.0.0.0."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isdecimal() or not 0 <= int(port) < 65536:
        raise ValueError("is neither HOST:PORT nor off")
    return host or "0.0.0.0", int(port)
