"""Importers: files that other tools wrote about a training, read as if they were spools.

An importer is one file with one class and one line in `REGISTRY`. An instance is one file and reads
like a spool (`ImportSource`):

- Records have the kinds "run", "step" and "finish" of `spooler.records` and are numbered 1, 2, 3 …
  in the order of the file. A record keeps its number in every call and process, also when the file
  has grown. A range that cannot be read has one number and is reported as damage.
- `spool` follows from the file's resolved path: a file that was moved or copied is another source.
- A last line or record that is not complete is not there yet, and is not damage.
- Files are opened read-only for one call and streamed: a call holds at most one record more than it
  returns.
- The content of a file raises nothing but `spooler.errors`.
- An instance is used by one thread at a time.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from spooler.errors import NotASpool
from spooler.spool.identity import Identity
from spooler.spool.reader import Chunk

REGISTRY: dict[str, str] = {
    "exporter-jsonl": "shipper.importers.exporter_jsonl:ExporterFile",
    "wandb-run": "shipper.importers.wandb_run:WandbFile",
}

_UNSAFE = re.compile(r"[^A-Za-z0-9._]+")
_NAME_LIMIT = 48  # characters of a name inside a spool id


@dataclass(frozen=True, kw_only=True)
class SourceInfo:
    """What the file does not say about its source; unknown by default."""

    workload_uid: str = ""
    pod_name: str = ""

    def identity(
        self, *, spool: str, created: float, host: str, place: tuple[int | None, int | None]
    ) -> Identity:
        """The identity of a source; `place` is node and local rank according to its path."""
        node, local = place
        return Identity(
            spool=spool,
            created=created,
            pid=0,
            host=host,
            workload_uid=self.workload_uid,
            pod_name=self.pod_name,
            local_rank=local,
            node_rank=node,
        )


class ImportSource(Protocol):
    """One file; the methods are those of `spooler.spool.reader.Reader`."""

    path: Path
    directory: Path

    @property
    def spool(self) -> str:
        """An id that no spool has; see `source_id`."""

    def identity(self) -> Identity: ...

    def read(self, after: int, limit: int) -> Chunk:
        """At most `limit` records and damaged ranges after `after`, in order."""

    def last_seq(self) -> int:
        """Number of the last record; reads the rest of the file once."""

    def is_owned(self) -> bool:
        """Always False: the file does not belong to a writer of spools."""


class Format(Protocol):
    """The contract of a class in `REGISTRY`."""

    FILES: str  # what its files are called, in messages

    def __call__(self, path: Path, origin: SourceInfo) -> ImportSource:
        """The source for one file; opens nothing."""

    def recognises(self, path: Path) -> bool:
        """Whether a file is of this format, by its name or its first bytes."""

    def find(self, folder: Path) -> Iterator[Path]:
        """Files of this format below a directory, by name; links are not followed."""


def formats() -> dict[str, Format]:
    loaded: dict[str, Format] = {}
    for name, place in REGISTRY.items():
        module, _, class_name = place.partition(":")
        loaded[name] = getattr(import_module(module), class_name)
    return loaded


def known_files() -> str:
    """What can be imported, in words."""
    return ", ".join(one.FILES for one in formats().values())


def open_imports(path: Path, **origin: str) -> list[ImportSource]:
    """Sources for a file, or for all files of known formats below a folder, sorted by path.

    The other arguments are the fields of `SourceInfo`.

    Raises:
        NotASpool: `path` does not exist, or the file is of no known format.
    """
    known = formats().values()
    info = SourceInfo(**origin)
    if path.is_dir():
        found = {file: one for one in known for file in one.find(path)}
        return [one(file, info) for file, one in sorted(found.items())]
    if not path.is_file():
        raise NotASpool(f"{path}: no such file or directory")
    for one in known:
        if one.recognises(path):
            return [one(path, info)]
    raise NotASpool(f"{path}: not a file that can be imported: {known_files()}")


def files_below(folder: Path) -> Iterator[Path]:
    """Regular files below a directory, at any depth; links are not followed."""
    waiting = [folder]
    while waiting:
        try:
            entries = sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name)
        except OSError:
            continue  # deleted meanwhile, or not readable
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield Path(entry.path)


def source_id(kind: str, name: str, path: Path) -> str:
    """`import-<kind>-<name>-<hash of the resolved path>`; safe in a header and a file name."""
    digest = path_digest(path)
    plain = _UNSAFE.sub("_", name)[:_NAME_LIMIT] or "unnamed"
    return f"import-{kind}-{plain}-{digest}"


def path_digest(path: Path) -> str:
    """12 hex digits that stand for a path."""
    return hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:12]
