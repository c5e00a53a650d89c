"""The segments of a spool as files: how far each goes, who writes it, what may be deleted.

Rules:

- No file is held open between two calls, and none is written.
- This is the only module of the service that moves or deletes anything of a spool.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from spooler.errors import NotASpool, SpoolDamaged, SpoolError
from spooler.spool import filesystem, safe_open
from spooler.spool import format as fmt
from spooler.spool.filesystem import wal_size
from spooler.spool.identity import Identity
from spooler.spool.layout import segment_files
from spooler.spool.owner import Liveness, LivenessCheck, LivenessEvidence, WriterProcess
from spooler.spool.segment import Bounds, Segment, is_lasting, is_sealed

# A spool holds hundreds. Of one that holds more than this, the others wait until these are gone.
MOST_SEGMENTS = 100_000

# What a death leaves that holds no record: a segment being prepared, or what stood beside one.
_LEFT_OVER = re.compile(r"\..*\.new.*|\.scratch|[0-9]{8,}\.sqlite-(wal|shm|journal)")


class Segments:
    """The files of a spool directory, seen from the service."""

    __slots__ = (
        "_folder",
        "_grown",
        "_highest",
        "_known",
        "_liveness_check",
        "_watermark",
        "directory",
        "place",
    )

    def __init__(self, directory: Path, place: Path | None = None) -> None:
        """`place` is where the directory really is, if that was found out before."""
        self.directory = directory
        # Resolved once: a folder that becomes a link later leads to another user's files.
        self.place = place or _real(directory)
        # Of files that do not change any more: (number, whether it is sound) -> state, bounds.
        self._known: dict[tuple[int, bool], tuple[tuple[int, int, int], Bounds | None]] = {}
        self._highest = 0  # the last segment that there has been
        # When the directory was last changed, and the sizes of the logs that grow.
        self._watermark: tuple[int, dict[str, int]] = (-1, {})
        self._grown: list[str] = []  # of these, at the last look
        self._folder = str(self.place)
        self._liveness_check = LivenessCheck(self.place, self._writer_process)

    @property
    def spool(self) -> str:
        """The spool id, which is the directory's name."""
        return self.directory.name

    def segments(self) -> list[int]:
        """Numbers of the segments there are, ascending; the first `MOST_SEGMENTS`."""
        try:
            names = os.listdir(self.place)
        except (FileNotFoundError, NotADirectoryError):
            return []
        numbers = [n for name in names if (n := fmt.segment_number(name)) is not None]
        self._highest = max(self._highest, max(numbers, default=0))
        return heapq.nsmallest(MOST_SEGMENTS, numbers)

    def last_seq(self) -> int:
        """Seq of the last record there is, 0 without any; unreadable segments are skipped."""
        return next((last for _, last in self._readable(reversed(self.segments()))), 0)

    def last_segment_first_seq(self) -> int:
        """Seq of the first record in the last segment that holds any, 0 without any.

        Raises:
            SpoolError: a segment cannot be read.
        """
        for number in reversed(self.segments()):
            with contextlib.suppress(FileNotFoundError):
                bounds = self._bounds(number)
                if bounds is not None:
                    return bounds[0]
        return 0

    def first_seq(self) -> int:
        """Seq of the first record there is, 0 without any; unreadable segments are skipped."""
        return self._first_in(self.segments()) or 0

    def has_news(self, folder: os.stat_result | None = None) -> bool:
        """Whether the files changed since the last call; costs a few stat calls.

        Records go to the last segment, or to the one before it while the last is only prepared.
        `folder` is its status if that was just read.
        """
        changed_at = _changed_at(folder or self.folder_status())
        known, before = self._watermark
        if changed_at != known:
            before = {f"{self.path_of(number)}-wal": -1 for number in self.segments()[-2:]}
        sizes = {name: _size(name) for name in before}
        grown = [name for name, size in sizes.items() if size != before[name]]
        self._grown = grown if changed_at == known else []
        self._watermark = changed_at, sizes
        return changed_at != known or bool(grown)

    def folder_status(self) -> os.stat_result | None:
        """The status of the directory now; None when it is gone."""
        try:
            return os.stat(self._folder)
        except FileNotFoundError:
            return None

    def changed_at(self) -> int:
        """When a file was last made, renamed or removed here, nanoseconds; 0 when all is gone."""
        return _changed_at(self.folder_status())

    def final_segments(self) -> list[tuple[int, int]]:
        """Readable segments that hold records and get no more: number and last seq, ascending."""
        # In this order: what is last is known only after the writer is known to be gone, or
        # after the segment that follows is known to hold a record.
        owned = self.is_owned()
        found: list[tuple[int, int]] = []
        for number in reversed(self.segments()):
            try:
                bounds = self._sound_bounds(number)
            except (FileNotFoundError, SpoolError):
                continue
            if bounds is not None:
                found.insert(0, (number, bounds[1]))
        return found[:-1] if owned else found

    def bytes(self) -> int:
        """Bytes on disk of everything in the directory."""
        return filesystem.bytes_in(self.place)

    def identity(self) -> Identity:
        """Who wrote this spool; see `Reader`."""
        raise NotASpool(f"{self.directory}: nothing reads its identity here")

    def is_owned(self) -> bool:
        """Whether the process that writes this spool lives, in whatever pid namespace."""
        return self.liveness().alive

    def is_unclean(self) -> bool | None:
        """Whether its process died without ending the spool; None while that is not known."""
        return self.liveness().unclean

    def liveness(self, folder: os.stat_result | None = None) -> Liveness:
        """Whether the process lives, and how it ended. New data refutes it.

        `folder` is its status if that was just read.
        """
        return self._liveness_check.liveness(folder)

    def liveness_evidence(self) -> LivenessEvidence:
        return self._liveness_check.liveness_evidence()

    def _writer_process(self) -> WriterProcess | None:
        try:
            who = self.identity()
        except (SpoolError, OSError):
            return None
        return WriterProcess(
            pid=who.pid,
            start_ticks=who.start_ticks,
            pid_namespace=who.pid_namespace,
            boot_id=who.boot_id,
        )

    def segments_below(self, position: int) -> list[int]:
        """Segments whose records all lie at or before `position` and that cannot get more.

        A segment that cannot be read is never among them, it is set aside in quarantine.
        """
        done = []
        listed = self.segments()
        for place, number in enumerate(listed, start=1):
            begun = self._first_in(listed[later] for later in range(place, len(listed)))
            if begun is None or begun > position + 1:
                break
            try:
                bounds = self._sound_bounds(number)
            except (FileNotFoundError, NotASpool, SpoolDamaged):
                continue
            if bounds is None or bounds[1] <= position:
                done.append(number)
        return done

    def is_drained(self, position: int) -> bool:
        """Whether every segment can be read and holds nothing beyond `position`.

        Raises:
            NotASpool, NewerFormat, SpoolDamaged: a segment cannot be read, so that is unknown.
        """
        bounds = [self._sound_bounds(number) for number in self.segments()]
        return all(bound is None or bound[1] <= position for bound in bounds)

    def segment_bytes(self, number: int) -> int:
        """Bytes on disk of a segment with its WAL."""
        path = self.path_of(number)
        with contextlib.suppress(FileNotFoundError):
            return os.lstat(path).st_size + wal_size(path)
        return 0

    def written_at(self, number: int) -> float:
        """When the segment or its WAL was last written, Unix seconds; 0.0 when it is not there."""
        written = []
        for name in (self.path_of(number), f"{self.path_of(number)}-wal"):
            with contextlib.suppress(FileNotFoundError):
                written.append(os.lstat(name).st_mtime)
        return max(written, default=0.0)

    def damaged(self) -> dict[int, str]:
        """Segments that are damaged and get no more records: number, why."""
        found = {}
        for number in self.segments():
            path = self.path_of(number)
            try:
                if is_sealed(path):
                    self._sound_bounds(number)
                elif self._is_final(number):
                    with self._opened(number) as one:
                        if one.has_hidden_commits():
                            found[number] = f"{path}-wal: damaged before its end"
            except FileNotFoundError:
                continue
            except SpoolError as error:
                if is_lasting(error) and self._is_final(number):
                    found[number] = str(error)
        return found

    def seqs_in(self, number: int) -> list[int]:
        """Every seq that a segment holds, readable or not, by their checksums."""
        try:
            with Segment(self.path_of(number)) as one:
                return one.seqs()
        except (FileNotFoundError, SpoolDamaged):
            return []

    def first_after(self, number: int) -> int | None:
        """The first seq in the readable segments after this one, None where there is none."""
        return self._first_in(later for later in self.segments() if later > number)

    def is_movable(self, number: int) -> bool:
        """Whether no process has the segment open for writing."""
        return is_sealed(self.path_of(number)) or self.liveness().certain

    def move_segment(self, number: int, folder: Path) -> None:
        """Set a segment aside: the database last, so that a half-done move is repeated.

        Raises:
            OSError: `folder` is not there, not writable, or on another file system.
        """
        with safe_open.inside(self.place) as here:
            for name in segment_files(Path(fmt.segment_name(number))):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(name, folder / name, src_dir_fd=here)

    def delete_segment(self, number: int) -> None:
        """Free a closed segment: the database last, so that a half-done deletion is repeated.

        Raises:
            OSError: it cannot be deleted, or the folder is not the one it was.
        """
        with safe_open.inside(self.place) as here:
            for name in segment_files(Path(fmt.segment_name(number))):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=here)

    def delete_spool(self) -> None:
        """Remove the directory of a spool whose writer is gone, with all in it that is ours.

        The folders of its rank and its node go with the last spool in them. A pod's own stays: it
        may be mounted there, and could then never record again.
        """
        for number in self.segments():
            self.delete_segment(number)
        with safe_open.inside(self.place) as here:
            left = [name for name in os.listdir(here) if _is_left_over(name, here)]
            for name in (*left, fmt.OWNER_NAME):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=here)
        with safe_open.inside(self.place.parent) as above:
            os.rmdir(self.place.name, dir_fd=above)
        for folder in self.place.parents[:2]:
            if not fmt.is_rank_folder(folder.name):
                break
            try:
                with safe_open.inside(folder.parent) as above:
                    os.rmdir(folder.name, dir_fd=above)
            except OSError:  # not empty, or not ours to remove
                break

    def path_of(self, number: int) -> Path:
        return self.place / fmt.segment_name(number)

    # --- bounds -----------------------------------------------------------------------------------

    def _is_final(self, number: int) -> bool:
        """Whether a segment gets no more records."""
        turned_over = is_sealed(self.path_of(number)) and self._highest > number
        return turned_over or self.first_after(number) is not None or not self.is_owned()

    def _first_in(self, numbers: Iterable[int]) -> int | None:
        """First seq in the readable ones of these segments, None without any record there."""
        return next((first for first, _ in self._readable(numbers)), None)

    def _readable(self, numbers: Iterable[int]) -> Iterator[Bounds]:
        """The bounds of those of these segments that can be read and hold records."""
        for number in numbers:
            bounds = None
            with contextlib.suppress(FileNotFoundError, NotASpool, SpoolDamaged):
                bounds = self._bounds(number)
            if bounds is not None:
                yield bounds

    def _opened(self, number: int) -> Segment:
        """A segment, opened and found to be one.

        Raises:
            SpoolError, FileNotFoundError: it is not a segment, cannot be read, or is gone.
        """
        one = Segment(self.path_of(number))
        try:
            one.check()
        except BaseException:
            one.close()
            raise
        return one

    def _bounds(self, number: int) -> Bounds | None:
        """First and last seq of a segment; of one that is damaged and final, of what is found."""
        try:
            return self._sound_bounds(number)
        except SpoolError as error:
            if not (is_lasting(error) and self._is_final(number)):
                raise
            return self._remembered(number, sound=False)

    def _sound_bounds(self, number: int) -> Bounds | None:
        if is_sealed(self.path_of(number)):
            return self._remembered(number, sound=True)
        return self._read_bounds(number)

    def _read_bounds(self, number: int) -> Bounds | None:
        with self._opened(number) as one:
            return one.bounds()

    def _found_bounds(self, number: int) -> Bounds | None:
        seqs = self.seqs_in(number)
        return (seqs[0], seqs[-1]) if seqs else None

    def _remembered(self, number: int, *, sound: bool) -> Bounds | None:
        """The bounds of a file that does not change any more, found once."""
        status = os.stat(self.path_of(number))
        mark = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._known.get((number, sound))
        if known is None or known[0] != mark:
            bounds = self._read_bounds(number) if sound else self._found_bounds(number)
            known = self._known[number, sound] = (mark, bounds)
        return known[1]


def _real(directory: Path) -> Path:
    place = os.path.realpath(directory)
    return directory if place == str(directory) else Path(place)


def _is_left_over(name: str, folder: int) -> bool:
    """Whether a file holds no record; a log whose segment is gone may."""
    if not _LEFT_OVER.fullmatch(name):
        return False
    return not name.endswith("-wal") or os.lstat(name, dir_fd=folder).st_size == 0


def _changed_at(folder: os.stat_result | None) -> int:
    return folder.st_mtime_ns if folder else 0


def _size(name: str) -> int:
    try:
        return os.lstat(name).st_size
    except FileNotFoundError:
        return -1
