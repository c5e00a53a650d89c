"""Which handler a request is for.

Rules:

* Paths are exact and case-sensitive; the query string plays no part; a doubled slash is
  another path. Percent escapes are undone after the path has been cut at its slashes.
* Everything but the root page stands under the prefix.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

ANY = "*"
_ROUTES = {
    ("POST", "wandb", "detection"): "detection",
    ("POST", "wandb", "metrics"): "metrics",
    ("POST", "wandb", "logs"): "logs",
    ("POST", "wandb", "batch"): "batch",
    ("GET", "pods", "workload", "cache"): "pods",
    ("GET", "workloads"): "workloads",
    ("GET", "workloads", ANY, "metrics", "available"): "available",
    ("GET", "workloads", ANY, "metrics", "data"): "data",
    ("GET", "workloads", ANY, "rows"): "rows",
    ("GET", "detections"): "detections",
    ("GET", "requests"): "requests",
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request as it came off the wire; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    received_at: float

    @property
    def path(self) -> str:
        """The target without its query string, escapes left as they are."""
        path = self.target.partition("?")[0]
        return path if path.startswith("/") else urlsplit(path).path

    @property
    def query(self) -> dict[str, list[str]]:
        """The query string, taken apart."""
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)


@dataclass(frozen=True, kw_only=True)
class Route:
    """A handler by name, with the workload that its path names, if any."""

    name: str
    workload: str = ""


def find(method: str, path: str, prefix: str) -> Route | None:
    """Return the handler for ``path``, or None; ``prefix`` is empty or begins with a slash."""
    if method == "GET" and path == "/":
        return Route(name="about")
    if not path.startswith(prefix + "/"):
        return None
    given = (method, *(unquote(part) for part in path[len(prefix) + 1 :].split("/")))
    for pattern, name in _ROUTES.items():
        if _fits(pattern, given):
            workloads = [part for want, part in zip(pattern, given, strict=True) if want == ANY]
            return Route(name=name, workload="".join(workloads))
    return None


def _fits(pattern: tuple[str, ...], given: tuple[str, ...]) -> bool:
    return len(pattern) == len(given) and all(
        part == want or (want == ANY and part) for want, part in zip(pattern, given, strict=True)
    )
