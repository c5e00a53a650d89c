"""Paths that are no spools: says what they are instead, and what to do with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipper.importers import Source as Foreign
from shipper.importers import formats, open_foreign
from shipper.inspection.spool import run_map
from shipper.inspection.stats import Tally
from shipper.ledger.database import DATABASE_NAME
from spooler.errors import SpoolError
from spooler.spool import format as fmt
from spooler.spool import safe_open

_SQLITE_HEAD = b"SQLite format 3\x00"
_READ_RECORDS = 1000
_NAMES = {
    "exporter-jsonl": "the older exporter's file of metrics",
    "wandb-run": "a run that wandb wrote itself",
}
_EXPECTED = (
    "a spool root holds node_<N>/rank_<R>/<spool id>/00000001.sqlite; training jobs make it where"
    " PRIMUS_LENS_WANDB_OUTPUT_PATH says"
)


@dataclass(frozen=True, kw_only=True)
class Stranger:
    """`what` it is, what can be done `next`; a `tally` where its records could be counted."""

    path: Path
    what: str
    next: str = _EXPECTED
    tally: Tally | None = None
    problem: str = ""  # why not all of its records could be read

    def to_map(self) -> dict[str, Any]:
        """For machines."""
        tally = self.tally or Tally()
        return {
            "path": str(self.path),
            "what": self.what,
            "next": self.next,
            "problem": self.problem,
            "kinds": dict(tally.kinds),
            "runs": [run_map(run) for run in tally.runs.values()],
            "wrong": True,
        }


def is_segment(path: Path) -> bool:
    """Whether a file is ours, or by its name ought to be."""
    if fmt.segment_number(path.name) is not None:
        return True
    head = _head(path)
    return head.startswith(_SQLITE_HEAD) and _word(head, 68) == fmt.APPLICATION_ID


def recognise(path: Path) -> list[Stranger]:
    """What a file or folder without any spool is; a folder may hold several things."""
    if path.is_dir():
        return _folder(path)
    head = _head(path)
    if head.startswith(_SQLITE_HEAD):
        return [_database(path, head)]
    for name, one in formats().items():
        if one.recognises(path):
            return [_foreign(source, name) for source in open_foreign(path, format_name=name)]
    return [Stranger(path=path, what=_plain(path, head))]


def _folder(path: Path) -> list[Stranger]:
    database = path / DATABASE_NAME
    if database.is_file():
        return [_database(database, _head(database))]
    found = []
    for name in formats():
        found += [_foreign(source, name) for source in open_foreign(path, format_name=name)]
    if found:
        return found
    try:
        what = "a folder without spools" if any(path.iterdir()) else "an empty folder"
    except OSError as error:
        what = f"a folder that cannot be read: {error.strerror}"
    return [Stranger(path=path, what=what)]


def _database(path: Path, head: bytes) -> Stranger:
    if path.name.startswith(DATABASE_NAME):
        version = _word(head, 60)
        return Stranger(
            path=path,
            what=f"the database of a service (state version {version})",
            next=f"`lens-ship audit --state {path.parent}` reads it",
        )
    application = _word(head, 68)
    return Stranger(
        path=path,
        what=f"an SQLite database of another application (id {application:#x})",
        next=f"a segment has the id {fmt.APPLICATION_ID:#x}; `sqlite3` shows what this one holds",
    )


def _foreign(source: Foreign, name: str) -> Stranger:
    tally, problem = Tally(), ""
    after, at_end = 0, False
    try:
        while not at_end:
            chunk = source.read(after, _READ_RECORDS)
            for stored in chunk.records:
                tally.note(stored)
            for damage in chunk.damage:
                problem = problem or damage.reason
            after, at_end = chunk.through, chunk.at_end
    except (SpoolError, OSError) as error:
        problem = str(error)
    return Stranger(
        path=source.path,
        what=f"no spool, but {_NAMES.get(name, name)}",
        next=f"`lens-ship replay {source.path}` sends it",
        tally=tally,
        problem=problem,
    )


def _plain(path: Path, head: bytes) -> str:
    if not path.is_file():
        return "neither a file nor a folder"
    if not head:
        return "an empty file, or one that cannot be read"
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return "text" if error.start > len(head) - 4 else "a file of some other kind"
    return "text"


def _head(path: Path) -> bytes:
    try:
        with safe_open.open_named(path) as file:
            return file.read(512)
    except OSError:
        return b""


def _word(head: bytes, offset: int) -> int:
    return int.from_bytes(head[offset : offset + 4], "big")
