"""Whether a tracker records the numbers of this job, in this process or another one below the root.

The spools say so: a process that records steps has a spool, and a step names its tracker. While the
process of such a spool lives, and for `AFTER_SECONDS` after its end, its tracker leads.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from spooler import config
from spooler.async_exceptions import ours
from spooler.errors import SpoolError
from spooler.filetail import resume
from spooler.hooks import precedence
from spooler.records import REGISTRY, step
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

# Lines are read some seconds after they were printed, and those without a time are as old as that.
AFTER_SECONDS = 30.0
_BEFORE_SECONDS = 2.0  # times in logs are whole seconds
_LOOK_SECONDS = 1.0  # between two looks
_RECORDS = 1000  # at a time
_OTHERS = frozenset(REGISTRY) - {step.NAME}
# What processes of one job have in common.
_JOB = ("workload_uid", "job_uid", "slurm_job_id", "launch", "world_size")


class Elsewhere:
    """Looks into the spools below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._job: list[Any] = []
        self._spools: dict[Path, _Spool | None] = {}  # None: says nothing, and never will
        self._look_at = 0.0  # monotonic seconds

    def leads(self, at: float) -> bool:
        """Whether a tracker records the numbers that were printed at this time."""
        if time.monotonic() >= self._look_at:
            self._look()
            self._look_at = time.monotonic() + _LOOK_SECONDS
        return any(one is not None and one.leads(at) for one in self._spools.values())

    def _look(self) -> None:
        mine = config.read(Identity, config.environ())
        job = [mine[name] for name in _JOB]
        if job != self._job:  # torchrun's launcher has started another number of ranks
            self._job = job
            self._spools = {path: one for path, one in self._spools.items() if one is not None}
        there = set(resume.spools(self._root))
        self._spools = {path: one for path, one in self._spools.items() if path in there}
        for path in there - self._spools.keys():
            self._spools[path] = _Spool(path)
        for path, one in self._spools.items():
            try:
                if one is not None and not one.look(self._job):
                    self._spools[path] = None
            except ours(SpoolError, OSError):
                continue  # it may become readable


class _Spool:
    """One spool, and the steps of a tracker in it."""

    def __init__(self, directory: Path) -> None:
        self._reader = Reader(directory)
        self._is_of_job = False
        self._after = 0
        self._first: float | None = None  # Unix seconds of the first step of a tracker
        self._end: float | None = None  # and of the last change, once its process has ended

    def leads(self, at: float) -> bool:
        if self._first is None:
            return False
        if self._end is None:
            return True
        return self._first - _BEFORE_SECONDS <= at <= self._end + AFTER_SECONDS

    def look(self, job: list[Any]) -> bool:
        """Look for news; False if this spool never leads."""
        if self._end is not None:
            return True
        if not self._is_of_job:
            identity = self._reader.identity()
            if [getattr(identity, name) for name in _JOB] != job:
                return False
            self._is_of_job = True
        ended = not self._reader.is_owned()  # in this order: what is read then is all there is
        if self._first is None:
            self._first = self._find()
        if ended:
            self._end = max(
                (path.stat().st_mtime for path in self._reader.directory.iterdir()), default=0.0
            )
        return not ended or self._first is not None

    def _find(self) -> float | None:
        at_end = False
        while not at_end:
            chunk = self._reader.read(self._after, _RECORDS, skip=_OTHERS)
            for stored in chunk.records:
                body = codec.unpack(stored.body)
                if body.get("tracker", "wandb") in precedence.ORDER:
                    return float(body["time"])
            self._after, at_end = chunk.through, chunk.at_end
        return None
