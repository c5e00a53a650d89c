"""The training log, from the file: each line once, in order, over rotations and restarts.

What `collect_data` returns is text that knows where it came from. `store_data` commits both in one
record, so a process that is killed at any instant is followed by one that goes on exactly there.
Data that was not taken (the disk is full, the client failed) is collected again.

Numbers in the lines become steps, see `spooler.log_steps`.
"""

from __future__ import annotations

import logging
import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from spooler import config, stderr
from spooler.async_exceptions import ours
from spooler.collectors import REPORTED, Collector, logger
from spooler.dlrover.metric import DiagnosisDataType
from spooler.filetail import resume
from spooler.filetail.checkpoint import (
    NO_STEPS,
    Checkpoint,
    CheckpointState,
    StepMark,
    is_lasting,
)
from spooler.filetail.follower import Follower, Piece
from spooler.filetail.rotation import is_rotated
from spooler.recorder import recorder
from spooler.spool import format as fmt

# So old may the checkpoint's idea of the last record become: it bounds what a restart has to read.
_REFRESH_SECONDS = 30.0
_PIECES_AT_ONCE = 16  # of 256 KiB each
# How often to ask whether the process that follows the file has gone.
_TAKE_OVER_SECONDS = 5.0
_STEPS = "spooler.log_steps"  # records runs, as hooks do, which know collectors: loaded on use


class LogText(str):
    """Some lines of a log; `piece` is where they stood, as `follower` has found it."""

    __slots__ = ("follower", "piece")
    follower: Follower
    piece: Piece


class LogCollector(Collector):
    """Follows `log_file_path`, by default the file that `TRAINING_LOG_FILE` names.

    Of several processes with the same spool root and file, one collects. The others are not
    enabled until it is gone, or has been silent for `LEASE_SECONDS`.
    """

    name = "log"
    title = "log content"
    data_type = DiagnosisDataType.TRAINING_LOG

    def __init__(self, log_file_path: str | os.PathLike[str] | None = "") -> None:
        super().__init__()
        self.path = _path(log_file_path) or _path(os.environ.get(config.LOG_FILE))
        self._pid = os.getpid()
        self._follower: Follower | None = None
        self._checkpoint: Checkpoint | None = None
        self._ask_again = 0.0
        self._saved_at = 0.0
        self._scheme = ""  # as it was saved
        self._lost = 0
        self._step = NO_STEPS  # within the next piece
        self._steps: Any = None  # what records them, from the first piece on; False for nothing

    def is_enabled(self) -> bool:
        """Whether there is such a file, and no other process follows it."""
        if self.path is None:
            return False
        self._leave_to_parent()
        if self._follower is None and not self._is_there(self.path):
            return False
        return self._begin()

    def collect_data(self, *, last: bool = False) -> str:
        """The next lines, at most 256 KiB; "" when there are none.

        A line without its end waits for it, 30 s at most, or not at all if this is the `last` time.
        """
        self._leave_to_parent()
        if not self._begin() or self._follower is None:
            return ""
        try:
            piece = self._follower.next(time.monotonic(), last=last)
        except ours(OSError) as error:
            # A disk that fails, a server of files that restarts: opened again, it may come back.
            self._say(logging.WARNING, f"{self.path} cannot be read now: {error}")
            self._follower.close()
            return ""
        self._tell_lost(self._follower)
        if piece is None or not self._saved_at:
            # The first time before anything is recorded: a rotation may come first.
            self._refresh()
        if piece is None:
            return ""
        text = LogText(piece.text)
        text.piece, text.follower = piece, self._follower
        return text

    def store_data(self, data: Any, *, more: int = _PIECES_AT_ONCE - 1) -> bool:
        """Report lines; those of `collect_data` are passed once they are taken.

        After them go those that follow in the log, `more` pieces at most: who collects once has not
        only the beginning of a long log. Whether the first ones were taken is what is returned.
        """
        if not isinstance(data, str):
            return self._refuse_type(data, "text")
        if not isinstance(data, LogText):
            return self._report(data)
        if not self._store(data):
            return False
        for _ in range(more):
            following = self.collect_data()
            if not isinstance(following, LogText) or not self._store(following):
                break
        return True

    def _store(self, data: LogText) -> bool:
        piece = data.piece
        if not self._has_turn() or data.follower is not self._follower:
            return False  # the process that follows the log now collects them
        if not self._record_steps(data):
            return False
        return self._report(
            str(data),
            piece.position.to_map(),
            lambda: self._pass(piece),
            quiet=_is_our_own(data),
        )

    def _record_steps(self, data: LogText) -> bool:
        """Record the steps in a piece, once; False if the spool takes none now."""
        follower = data.follower
        try:
            if self._steps is None:
                opened = import_module(_STEPS).open_steps
                self._steps = opened(self.path, follower.position, self._step) or False
            if self._steps is False:
                return True
            begin = data.piece.position.begin
            taken: bool = self._steps.record(str(data), lambda: follower.before, begin)
            return taken
        except ours(Exception) as error:
            recorder().bug(error)
            return True  # the lines are recorded without

    def close(self) -> None:
        """Close the file, and let another process follow it."""
        if self._follower is not None:
            self._follower.close()
        if self._checkpoint is not None:
            self._checkpoint.close()
        self._follower = self._checkpoint = self._steps = None
        self._saved_at, self._step = 0.0, NO_STEPS

    def keep_turn(self) -> None:
        """Show that this process still collects, or ask whether another one still does."""
        if self.path is not None and self.path.is_file():
            self._begin()

    def tail(self, size: int = 65536) -> str:
        """The last `size` bytes of the file as text; does not change what is collected."""
        try:
            # A pipe would make us wait for its writer.
            descriptor = os.open(self.path or "", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(descriptor, "rb") as file:
                file.seek(max(0, os.fstat(descriptor).st_size - size))
                return file.read(size).decode("utf-8", "replace")
        except ours(OSError):
            return ""

    # --- beginning --------------------------------------------------------------------------------

    def _is_there(self, path: Path) -> bool:
        """Whether there is a file to follow; what is wrong is reported once."""
        if path.is_file():
            trouble = "" if os.access(path, os.R_OK) else "cannot be read by this user"
        elif is_rotated(path):
            trouble = ""
        else:
            trouble = "is not a regular file" if os.path.lexists(path) else "does not exist"
        if trouble:
            stderr.report_once(
                f"log {path} {trouble}",
                f"The training log {path} {trouble}. Nothing of it is recorded until that changes.",
            )
        return not trouble

    def _begin(self) -> bool:
        """Have a follower that is at the right place; whether there is one."""
        if self._has_turn():
            return True
        if self.path is None or time.monotonic() < self._ask_again:
            return False
        root = config.from_environ(os.environ).root
        if root is None:
            self._follower = _fresh(self.path)
            return True
        try:
            self._checkpoint = Checkpoint.take(root, self.path)
            if self._checkpoint is not None:
                self._follower, self._step = _resumed(self.path, root, self._checkpoint)
        except ours(OSError) as error:
            self.close()
            self._tell_no_checkpoint(self.path, root, error)
            if is_lasting(error):
                self._follower = _fresh(self.path)
        if self._follower is None:
            self._ask_again = time.monotonic() + _TAKE_OVER_SECONDS
        return self._follower is not None

    def _tell_no_checkpoint(self, path: Path, root: Path, error: OSError) -> None:
        if is_lasting(error):
            text = (
                f"lens-ship cannot save its position in {path} below {root} ({error})."
                " After a restart, lines of the log may be recorded again."
            )
        else:
            text = (
                f"lens-ship cannot follow {path} now: {error} (below {root})."
                f" It is tried again every {_TAKE_OVER_SECONDS:.0f} s. Nothing of the log is lost."
            )
        stderr.report_once(f"checkpoint {error.errno}", text)

    def _has_turn(self) -> bool:
        """Whether this process follows the file; what it has of it is void when it does not."""
        if self._follower is None:
            return False
        if self._checkpoint is None or self._checkpoint.renew():
            return True
        self._say(logging.INFO, f"Another process follows {self.path} now")
        self.close()
        return False

    def _leave_to_parent(self) -> None:
        """In a forked child: the parent follows the file; begin again, when it is gone."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._checkpoint = self._steps = None  # closed by its own handler of forks
            self._saved_at = 0.0
            if self._follower is not None:
                self._follower.close()
                self._follower = None

    # --- keeping the position ---------------------------------------------------------------------

    def _pass(self, piece: Piece) -> None:
        if self._steps:
            self._steps.passed(piece.position)
        if self._follower is not None:
            self._follower.advance(piece)
            self._save()

    def _refresh(self) -> None:
        is_old = not self._saved_at or time.monotonic() - self._saved_at >= _REFRESH_SECONDS
        if is_old or (self._follower is not None and self._follower.scheme != self._scheme):
            self._save()

    def _save(self) -> None:
        follower, checkpoint = self._follower, self._checkpoint
        if follower is None or checkpoint is None or follower.position is None:
            return
        mine = recorder()
        self._saved_at, self._scheme = time.monotonic(), follower.scheme
        spool = os.path.basename(mine.directory or "")
        saved = CheckpointState(
            position=follower.position,
            known=follower.known,
            scheme=follower.scheme,
            spool=spool,
            seq=mine.last_seq,
            start=spool.split("-")[0] or time.strftime(fmt.START, time.gmtime()),
            pid=os.getpid(),
            host=os.uname().nodename,
            step=self._steps.mark if self._steps else self._step,
        )
        try:
            checkpoint.save(saved)
        except ours(OSError) as error:
            stderr.report_once(
                "checkpoint",
                f"lens-ship cannot save its position in {self.path} ({error})."
                " After a restart, lines of the log may be recorded again.",
            )

    def _tell_lost(self, follower: Follower) -> None:
        if follower.lost != self._lost:
            self._lost = follower.lost
            logger.warning(
                "%s was deleted, replaced or compressed before its end was read."
                " Lines that were not read are not recorded.",
                self.path,
            )


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    """The absolute path that is meant, None for none."""
    if given is None or given == "":
        return None
    try:
        text = os.fsdecode(given)
    except ours(TypeError):
        text = "\0"
    if "\0" in text:
        logger.warning("%r is not the path of a training log. It is ignored.", given)
        return None
    return Path(os.path.abspath(text))


def _fresh(path: Path) -> Follower:
    """A follower of a file that was never followed before."""
    return Follower(path, from_end=config.collectors_from_environ(os.environ).log_from_end)


def _resumed(path: Path, root: Path, checkpoint: Checkpoint) -> tuple[Follower, StepMark]:
    """A follower that goes on where others stopped, and how far steps of the next piece are."""
    saved = checkpoint.load()
    positions, step = resume.latest(root, path, saved)
    if not positions:
        return _fresh(path), step
    newest, *earlier = positions
    if saved is None:
        return Follower(path, newest, earlier=earlier), step
    return Follower(path, newest, saved.known, earlier=earlier, scheme=saved.scheme), step


def _is_our_own(lines: str) -> bool:
    """Whether these lines only say that lines were reported: saying so again would never end."""
    ours = REPORTED.split("%")[0] + LogCollector.title
    return all(ours in line for line in lines.splitlines())
