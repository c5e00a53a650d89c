"""Records steps from the training lines that the log collector finds.

They belong to one run of the job, of the tracker `log`. They are left out while a tracker records
the job's numbers, unless `PRIMUS_LENS_TRACKERS` names `log`. A step is recorded before the piece of
the log that it stands in, and says how much of that piece is read then. So a piece that is read
again, by this process or the next one, gives only the steps that are not there yet.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spooler import config, stderr
from spooler.filetail import lines
from spooler.filetail.checkpoint import NO_STEPS, WINDOW, LogPosition, StepMark
from spooler.hooks import run_id
from spooler.hooks.elsewhere import Elsewhere
from spooler.hooks.run_tracker import runs
from spooler.hooks.tracked_run import TrackedRun
from spooler.loglines import Parser, parsers
from spooler.loglines.pattern import UnusableError, patterns
from spooler.loglines.reader import Found, LineReader


class LogRun(TrackedRun):
    """The run of the lines in a log: the same in every rank of a job, and after a restart."""

    tracker = config.LOG_TRACKER

    def __init__(self, path: Path) -> None:
        super().__init__(run_id.stable(config.environ(), "log", str(path)))
        self._path = path

    def facts(self) -> dict[str, Any]:
        return {"name": self._path.name}


class LogSteps:
    """The steps of one log, from `position` on. `mark` says which of the next piece are there."""

    def __init__(
        self, root: Path, path: Path, position: LogPosition | None, mark: StepMark
    ) -> None:
        self.mark = mark
        self._path = path
        self._run = LogRun(path)
        self._elsewhere = Elsewhere(root)
        self._is_chosen = bool(config.chosen_trackers(os.environ))
        self._reader = LineReader(parsers=known_parsers())
        self._end = position.end if position is not None else 0  # of the piece before
        self._is_new = True  # nothing of the log was read
        self._following: LineReader | None = None

    def record(self, text: str, before: Callable[[], bytes], begin: int) -> bool:
        """Record the steps in a piece of the log; False if the spool refuses them now.

        Args:
            text: of the piece.
            before: gives the bytes of the file before it.
            begin: of the piece, in bytes. It continues the one before if it begins where that
                ended: a rotation may have copied the file in between.
        """
        if self._is_new:
            self._is_new = False
            known = before()
            self._reader.counts = not (self._end or known)
            self._recall(known)
        if begin != self._end:
            self._end = begin
            self._reader.cut()
        self._following = self._reader.copy()
        done = self.mark.chars_of(begin, text)
        mark = StepMark(begin=begin)
        for found in self._following.feed(text):
            crc = zlib.crc32(text[mark.chars : found.end].encode(), mark.crc)
            mark = StepMark(begin=begin, chars=found.end, crc=crc)
            if found.end > done:
                if not self._record(found, mark):
                    return False
                self.mark = mark
        return True

    def passed(self, position: LogPosition) -> None:
        """The piece at `position` is recorded, too: what follows continues it."""
        if self._following is not None:
            self._reader, self._following = self._following, None
        self._end, self.mark = position.end, NO_STEPS

    def _recall(self, before: bytes) -> None:
        """Know what lines before the position say, such as the beginning of the next one."""
        text = lines.text(before)
        if len(before) == WINDOW:
            text = text.partition("\n")[2]
        for _ in self._reader.feed(text):
            pass

    def _record(self, found: Found, mark: StepMark) -> bool:
        now = time.time()
        at = now if found.time is None else min(found.time, now)
        if not self._is_chosen and self._elsewhere.leads(at):
            return True
        self._run.alone = self._run.alone or found.sole_writer
        runs.finish_at_exit()
        return runs.offer(
            self._run,
            found.step,
            found.values,
            step_given=found.step_given,
            at=at,
            source={"path": str(self._path), "parser": found.parser, **mark.to_map()},
        )


def known_parsers() -> dict[str, Parser]:
    """The operator's own patterns, then those of the registry."""
    own: list[Any] = []
    try:
        own = patterns(os.environ.get(config.LOG_PATTERN, ""))
    except UnusableError as error:
        stderr.report_once(
            "log pattern",
            f"{config.LOG_PATTERN} cannot be used: {error}. Lines in known formats are recorded"
            " all the same. To fix it, write the text of a line with names in braces where numbers"
            " stand: `step {step} loss {loss}`.",
        )
    return {**{f"pattern-{n}": one for n, one in enumerate(own, 1)}, **parsers()}


def open_steps(path: Path, position: LogPosition | None, mark: StepMark) -> LogSteps | None:
    """What records steps of the log at `path`; None where none are wanted."""
    root = config.from_environ(os.environ).root
    if root is None or not config.is_tracker_on(os.environ, config.LOG_TRACKER):
        return None
    return LogSteps(root, path, position, mark)
