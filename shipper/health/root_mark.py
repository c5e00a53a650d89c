"""Which service ships a root: an extended attribute of the root, renewed while the service runs.

Two services on one root send everything twice, and delete what the other one has not delivered. A
new state sends everything again. Both are reported, and neither is prevented. In a shared root only
its owner can set the attribute. Where the service may not, or the file system has none, there is no
report. A pod sees its own directory only, so the directories of pods have the attribute too.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from shipper.discovery.layout import pod_directories
from shipper.ledger.database import LOCK_NAME
from shipper.log import fields

log = logging.getLogger(__name__)

NAME = "user.lens-ship.service"
RENEW_SECONDS = 15.0
# A mark that is older is of a service that does not run any more.
FRESH_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class RootMark:
    """The last service that shipped a root; `running` as far as the mark shows."""

    id: str  # of its state
    state: str
    running: bool


def read_mark(root: Path) -> RootMark | None:
    """The mark of a root; None where there is none."""
    try:
        content = orjson.loads(os.getxattr(root, NAME))
        age = abs(time.time() - float(content["time"]))
        running = age < FRESH_SECONDS
        return RootMark(id=str(content["id"]), state=str(content["state"]), running=running)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def other_service(root: Path, state: Path) -> RootMark | None:
    """The mark of a service with another state than this one; None when there is no other."""
    mark = read_mark(root)
    return None if mark is None or mark.id == state_id(state) else mark


def state_id(state: Path, *, create: bool = False) -> str:
    """What names a state wherever it is mounted, "" for one that no service has used."""
    path = state / LOCK_NAME
    try:
        known = path.read_text(encoding="ascii", errors="replace")
        if not known and create:
            known = uuid.uuid4().hex
            path.write_text(known, encoding="ascii")
    except OSError:
        return ""
    return known


class RootMarker:
    """Renews the mark of a running service, and reports another one; used by housekeeping."""

    def __init__(
        self, root: Path, state: Path, now: Callable[[], float], *, by_pod: bool = False
    ) -> None:
        self._root = root
        self._by_pod = by_pod
        self._changed = -1  # when an entry of the root was made or removed, in nanoseconds
        self._state = state
        self._id = state_id(state, create=True)
        self._now = now
        self._due = now()
        self._logged: RootMark | None = None

    def renew_if_due(self) -> None:
        if not self._id or (self._now() < self._due and not self._has_new_pod()):
            return
        self._due = self._now() + RENEW_SECONDS
        mark = other_service(self._root, self._state)
        if mark is not None:
            self._report(mark)
        if mark is None or not mark.running:
            self._write(time.time())

    def end(self) -> None:
        """Let the mark look old: no service runs here any more."""
        mark = read_mark(self._root)
        if mark is not None and mark.id == self._id:
            self._write(0.0)

    def _report(self, mark: RootMark) -> None:
        if mark == self._logged:
            return
        self._logged = mark
        values = fields(path=self._root, state=self._state, other=mark.state)
        if mark.running:
            log.warning(
                "another service ships this root, records are sent twice, stop one", extra=values
            )
        else:
            log.warning(
                "root was shipped with another state, its records are sent again", extra=values
            )

    def _write(self, now: float) -> None:
        value = {"id": self._id, "state": str(self._state.absolute()), "time": now}
        for directory in (self._root, *(pod_directories(self._root) if self._by_pod else ())):
            with suppress(OSError, TypeError):  # read-only, missing, another user's, or not UTF-8
                os.setxattr(directory, NAME, orjson.dumps(value))

    def _has_new_pod(self) -> bool:
        """Whether the root has changed: what runs in a new pod has to see the mark at once."""
        before = self._changed
        if self._by_pod:
            with suppress(OSError):
                self._changed = os.stat(self._root).st_mtime_ns
        return self._changed != before
