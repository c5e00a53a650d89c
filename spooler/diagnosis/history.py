"""Keeps the last failure of each rank of a workload, beyond the process that failed.

One small file in `collectors_<uid>/` below the spool root, replaced as a whole. A workload needs a
name for it: without `WORKLOAD_UID`, `JOB_UID` and `SLURM_JOB_ID` two jobs of one root could be
taken for one, so the last failure is kept in memory only. So it is where no root is configured, and
while the disk lets us write nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from spooler import config
from spooler.async_exceptions import ours, suppress
from spooler.diagnosis.repeats import LONGEST_SECONDS, Repeats
from spooler.filetail.checkpoint import state_folder
from spooler.spool.identity import Identity


class FailureHistory:
    """The last failure of this rank."""

    def __init__(self) -> None:
        self._last: Repeats | None = None

    def last(self) -> Repeats | None:
        """That of this process, else the one on disk."""
        if self._last is None and (path := _path()) is not None:
            self._last = _read(path)
        return self._last

    def keep(self, repeats: Repeats) -> None:
        """Keep it for the next process of this rank. Nothing is raised."""
        self._last = repeats
        with suppress(OSError):
            if (path := _path()) is not None:
                draft = path.with_name(f".{path.name}.{os.getpid()}")
                draft.write_text(json.dumps(asdict(repeats)), "utf-8")
                os.replace(draft, path)
                _tidy(path.parent)


def _path() -> Path | None:
    root = config.from_environ(os.environ).root
    who = config.read(Identity, config.environ())
    workload = who["workload_uid"] or who["job_uid"] or who["slurm_job_id"]
    if root is None or not workload:
        return None
    name = json.dumps([workload, who["rank"], who["node_rank"], who["local_rank"]])
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
    try:
        return state_folder(root) / f"{digest[:24]}.failure"
    except ours(OSError):
        return None


def _read(path: Path) -> Repeats | None:
    try:
        found = Repeats(**json.loads(path.read_text("utf-8")))
    except ours(OSError, ValueError, TypeError):
        return None
    is_whole = type(found.count) is int and type(found.step) in (int, type(None))
    return found if is_whole and isinstance(found.time, int | float) else None


def _tidy(folder: Path) -> None:
    """Delete what is too old to count."""
    for other in (*folder.glob("*.failure"), *folder.glob(".*.failure.*")):
        if time.time() - os.stat(other).st_mtime > LONGEST_SECONDS:
            other.unlink(missing_ok=True)
