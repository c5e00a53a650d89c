"""Which distributions and source trees lie on the import path, told from file names alone.

Rules:
- The name and version of a distribution stand in the name of its metadata directory
  (``torch-2.3.0.dist-info``), so one listing per directory of the path tells them all. Parsing
  the metadata files would cost a hundred times more and load the mail parser and its sockets.
- The first directory of the path wins, as it does for an import.
- A source tree is a directory or file with the name of a known framework on the path; it was
  not installed by a package manager and has no version.
- Read once per path and kept: a training process does not install packages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from spooler.detection.catalogue import CATALOGUE
from spooler.detection.view import View, list_names

MOST_DIRECTORIES = 64

_ROOTS = frozenset(module.partition(".")[0] for entry in CATALOGUE for module in entry.modules)
_METADATA = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info")


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What lies on the import path."""

    versions: Mapping[str, str]
    places: Mapping[str, str]
    sources: frozenset[str]

    def version(self, *names: str) -> str:
        """Return the version of the first of these distributions that is there, or nothing."""
        return next((self.versions[name] for name in names if name in self.versions), "")


def look(view: View) -> Installed:
    path = view.attributes("sys").get("path")
    entries = path if type(path) is list else []
    texts = [entry for entry in list(entries) if type(entry) is str]
    # Only the working directory stands on the path as an empty text; other relative entries
    # mean something else to every program that changed its directory.
    known = [entry or view.cwd() for entry in texts if not entry or entry.startswith("/")]
    return _scan(view.files, tuple(dict.fromkeys(filter(None, known)))[:MOST_DIRECTORIES])


@lru_cache(maxsize=4)
def _scan(files: Path, directories: tuple[str, ...]) -> Installed:
    versions: dict[str, str] = {}
    places: dict[str, str] = {}
    sources: set[str] = set()
    for directory in directories:
        for entry in list_names(files, directory):
            stem = entry.removesuffix(".py")
            if stem in _ROOTS:
                sources.add(stem)
            match = _METADATA.fullmatch(entry)
            if match and (name := _canonical(match["name"])) not in versions:
                versions[name] = match["version"]
                places[name] = directory
    return Installed(versions=versions, places=places, sources=frozenset(sources))


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
