"""wandb's own run files: everything that a run logged, as wandb keeps it to synchronise later.

Layout: ``wandb/offline-run-<start>-<run id>/run-<run id>.wandb``, and ``wandb/run-…`` the same for
a run that was online. The file is a header of 7 bytes, ``:W&B``, 0xBEE1 (little-endian), version 0,
and from there on a log (`shipper.importers.wandb_datastore`) of protobuf messages
(`shipper.importers.wandb_record`). Rules:

- Each history record is one step, whole: wandb has merged what was logged with ``commit=False``.
  Only those count: a summary says the same once more, and requests for parts of a step are passed
  over, as what becomes of them is history.
- A step's number is its `_step`, else the record's, else the one after the last step's; its time
  is its `_timestamp`, else start and `_runtime`, else that of the step before.
- The first run record is the "run"; later ones only change its description. Where it cannot be
  read, the run id is the one in the file's name.
- "finish" stands where the run's exit does. In files of the service before wandb-core, known by a
  header record without a version, the last step may come after that, so there it stands at the
  record that ends the file.
- Images, tables and the like are not in the file, only that they were logged; nor is what wandb
  samples of the system, the console or the configuration: that is passed over.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from shipper.importers import SourceInfo, files_below, source_id, wandb_record
from shipper.importers.scan import ImportedRecord, Item, ScannedFile, Unreadable, pack, run_item
from shipper.importers.wandb_datastore import CorruptEntry, LogEntry, LogOffset, entries
from shipper.protobuf import MalformedMessage
from spooler.errors import NewerFormat, NotASpool
from spooler.records import finish, step
from spooler.spool import safe_open
from spooler.spool.identity import Identity

SUFFIX = ".wandb"

_HEADER = struct.Struct("<4sHB")
_IDENT = (b":W&B", 0xBEE1)
_VERSION = 0
_FILE_NAME = re.compile(r"run-(.+)\.wandb")
_MODES = {"offline-run-": "offline", "run-": "online"}
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


@dataclass(frozen=True, kw_only=True, slots=True)
class WandbState:
    """The place in the log, and what later records depend on."""

    place: LogOffset
    run: str
    mode: str = ""  # "offline" or "online", as the folder's name has it
    announced: bool = False  # the "run" record has been given
    host: str = ""
    start: float = 0.0
    time: float = 0.0  # of the last record
    step: int | None = None  # the last one
    following: int = 0  # number of a step that has none
    exits_early: bool = False  # the last step comes after the exit
    exit_code: int | None = None  # of an exit that has not been given yet


class WandbFile(ScannedFile[WandbState]):
    """One run's file; see the module."""

    def __init__(self, path: Path, origin: SourceInfo) -> None:
        folder = path.absolute().parent.name
        mode = next((name for start, name in _MODES.items() if folder.startswith(start)), "")
        place = LogOffset(offset=_HEADER.size)
        super().__init__(path, origin, WandbState(place=place, run=_run_in_name(path), mode=mode))

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether it has a run file's name or header."""
        if not path.is_file():
            return False
        if path.suffix == SUFFIX:
            return True
        try:
            with safe_open.open_named(path) as file:
                return file.read(len(_IDENT[0])) == _IDENT[0]
        except OSError:
            return False

    @classmethod
    def find(cls, folder: Path) -> Iterator[Path]:
        """See `shipper.importers.Format`."""
        return (path for path in files_below(folder) if _FILE_NAME.fullmatch(path.name))

    @property
    def spool(self) -> str:
        """See `shipper.importers.Source`."""
        return source_id("wandb", _run_in_name(self.path), self.path)

    def identity(self) -> Identity:
        """See `shipper.importers.Source`; `created` and `host` are the run's."""
        known = self.first_state()
        return self.origin.identity(
            spool=self.spool, created=known.start, host=known.host, place=(None, None)
        )

    def scan(self, file: BinaryIO, state: WandbState) -> Iterator[tuple[Item, WandbState]]:
        """See `ScannedFile`.

        Raises:
            NotASpool, NewerFormat: the file's header is another one.
        """
        if not _has_header(self.path, file):
            return
        for entry in entries(file, state.place):
            item, state = _read(entry, state)
            if item is not None:
                yield item, state


def _read(entry: LogEntry | CorruptEntry, state: WandbState) -> tuple[Item | None, WandbState]:
    """What one record of the log adds, and the state after it."""
    after = replace(state, place=entry.then)
    if isinstance(entry, CorruptEntry):
        return Unreadable(reason=f"record at byte {entry.start}: {entry.reason}"), after
    try:
        kind, body = wandb_record.content(entry.data)
        reader = _READERS.get(kind)
        return (None, after) if reader is None else reader(body, after)
    except MalformedMessage as error:
        return Unreadable(
            reason=f"record at byte {entry.start}: no message of wandb's: {error}"
        ), after
    except ValueError as error:
        return Unreadable(reason=f"record at byte {entry.start}: {error}"), after


def _header(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    return None, replace(state, exits_early=not wandb_record.has_version(body))


def _run(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    if state.announced:
        return None, state
    known = wandb_record.run(body)
    state = replace(
        state,
        run=known.texts.get("run") or state.run,
        announced=True,
        host=known.texts.get("host", ""),
        start=known.start,
        time=state.time or known.start,
        following=max(state.following, known.starting_step),
    )
    facts = {**known.texts, "tags": list(known.tags), "resumed": known.resumed}
    facts |= {"step": known.starting_step, "mode": state.mode}
    facts["tracker_version"] = known.wandb
    facts.pop("run", None)
    facts.pop("host", None)
    return run_item(run=state.run, time=state.start, **facts), state


def _history(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    found = wandb_record.history(body)
    number = state.following if found.step is None else found.step
    time = found.time
    if time is None:
        time = state.time if found.runtime is None else state.start + found.runtime
    made = step.encode(run=state.run, step=number, time=time, closed=True, data=found.data)
    state = replace(state, step=number, following=number + 1, time=time)
    return ImportedRecord(kind=step.NAME, body=pack(made)), state


def _exit(body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    state = replace(state, exit_code=wandb_record.exit_code(body))
    return (None, state) if state.exits_early else _end(b"", state)


def _end(_body: bytes, state: WandbState) -> tuple[Item | None, WandbState]:
    """Give the exit that has come, if one has."""
    if state.exit_code is None:
        return None, state
    made = finish.encode(run=state.run, time=state.time, step=state.step, exit_code=state.exit_code)
    return ImportedRecord(kind=finish.NAME, body=pack(made)), replace(state, exit_code=None)


_READERS = {
    wandb_record.HEADER: _header,
    wandb_record.RUN: _run,
    wandb_record.HISTORY: _history,
    wandb_record.EXIT: _exit,
    wandb_record.FINAL: _end,
    wandb_record.FOOTER: _end,
}


def _has_header(path: Path, file: BinaryIO) -> bool:
    """Whether the header is there; False while it is not whole."""
    file.seek(0)
    head = file.read(_HEADER.size)
    expected = _HEADER.pack(*_IDENT, _VERSION)
    if head == expected:
        return True
    if expected.startswith(head):
        return False
    packed = next((name for start, name in _PACKED.items() if head.startswith(start)), "")
    if packed:
        raise NotASpool(f"{path}: compressed with {packed}: unpack it first")
    if head[:-1] == expected[:-1]:
        raise NewerFormat(f"{path}: version {head[-1]} of wandb's run file, known is {_VERSION}")
    raise NotASpool(f"{path}: does not begin as wandb's run files do")


def _run_in_name(path: Path) -> str:
    match = _FILE_NAME.fullmatch(path.name)
    return match[1] if match else path.stem or "unknown"
