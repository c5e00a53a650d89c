"""Finds new spools below the root, and reports those that cannot be read.

A spool that cannot be read does not keep the others from being found. A tenant who fills the root
with thousands of directories delays only the discovery of his own spools.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from shipper.config.schema import Config
from shipper.discovery.layout import (
    TakenDirectory,
    find_spools,
    identity_of,
    is_empty,
    owner_of,
    unreadable_text,
)
from shipper.discovery.same_spool import is_missing, is_same_place, is_same_process, replaces
from shipper.errors import Misplaced, StateUnusable
from shipper.ledger.ledger import Ledger
from shipper.log import fields
from spooler.errors import NotASpool, SpoolDamaged, SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

# New spools of one tenant (a user in a directory of the root) that one scan adds, and the wall time
# that it spends on them; the next scan continues at once. Of more that cannot be read, each is
# retried after so many seconds, and the next scan waits for a multiple of the time that this one
# took: they get a quarter of the time at most.
MOST_AT_ONCE = 100
TENANT_SECONDS = 2.0
RETRY_SECONDS = 30.0
_PAUSE_FACTOR = 3.0
# A spool directory is made a moment before its first segment.
NEW_SPOOL_SECONDS = 0.2
# How often to look for a root that does not exist yet: nothing can watch it.
MISSING_ROOT_SECONDS = 1.0


class KnownSpool(Protocol):
    """A spool that was found."""

    @property
    def reader(self) -> Reader:
        """Where it is."""


class Shipping(Protocol):
    """The spools that are shipped."""

    @property
    def spools(self) -> Mapping[str, KnownSpool]:
        """All of them, by id; only this scanner and what it calls change them."""

    def add_spool(self, reader: Reader, identity: Identity) -> None:
        """Ship a spool from now on."""

    def remove_spool(self, spool: str) -> bool:
        """Ship a spool no more, until it is added again; False while it is in use."""


class SpoolScanner:
    """Scans the root when it is due, adds each new spool and removes each that is gone.

    One that is gone is known by the ledger alone, and added again when it is found again.
    `quarantine` is asked first about a spool that cannot be read: whether it moved the spool away.
    """

    def __init__(
        self,
        *,
        config: Config,
        ledger: Ledger,
        shipping: Shipping,
        quarantine: Callable[[Reader, SpoolError], bool],
        now: Callable[[], float],
    ) -> None:
        self.unreadable: dict[str, str] = {}  # directory -> why
        self._config = config
        self._ledger = ledger
        self._shipping = shipping
        self._quarantine = quarantine
        self._now = now
        self._requested = True
        self._scanning = False
        self._began = 0.0  # monotonic seconds: when the last scan began
        self._due = 0.0  # when the next one begins, if none is requested before
        self._logged: dict[str, str] = {}
        self._retry_at: dict[str, float] = {}  # one of many unreadable spools -> when to retry it

    @property
    def seconds(self) -> float:
        """How long to wait until the next scan."""
        return self._due - self._now()

    @property
    def is_done(self) -> bool:
        """Whether no scan is requested or running; from any thread."""
        return not self._requested and not self._scanning

    def request_scan(self) -> None:
        """Scan at the next opportunity: something has appeared; from any thread."""
        self._requested = True

    def scan_if_due(self) -> None:
        if not self._requested and self.seconds > 0:
            return
        # In this order: `is_done` may be asked in between.
        self._scanning, self._requested = True, False
        try:
            self._scan_root(self._config.spool)
        finally:
            self._scanning = False

    def _scan_root(self, root: Path) -> None:
        self._began = self._now()
        self._due = self._began + self._config.rescan_interval
        before, self.unreadable = self.unreadable, {}
        self._remove_missing()
        if is_missing(root):
            self._due = min(self._due, self._began + MISSING_ROOT_SECONDS)
            if self._is_news(root, "missing"):
                log.warning("spool root does not exist yet, waiting", extra=fields(path=root))
        else:
            self._scan(root, before)
            self._retry_at = {n: due for n, due in self._retry_at.items() if n in self.unreadable}
        # Those that were found in another place are known to be there by now.
        known, stored = self._shipping.spools, self._ledger.present()
        missing = [name for name in stored if name not in known and is_missing(stored[name])]
        if missing:
            self._ledger.mark_missing(missing)

    def _remove_missing(self) -> None:
        known = self._shipping.spools.items()
        missing = [name for name, one in known if is_missing(one.reader.place)]
        removed = [name for name in missing if self._shipping.remove_spool(name)]
        if len(removed) < len(missing):
            self._due = min(self._due, self._began + NEW_SPOOL_SECONDS)
        if removed:
            log.warning(
                "spools are not there any more, lens-ship audit says what was delivered",
                extra=fields(path=self._config.spool, count=len(removed)),
            )

    def _scan(self, root: Path, before: dict[str, str]) -> None:
        spent: defaultdict[tuple[str, int | None], float] = defaultdict(float)  # seconds, by tenant
        bad = 0
        for directory in find_spools(root, self._on_unreadable):
            known = self._shipping.spools.get(directory.name)
            if (known and known.reader.directory == directory) or is_empty(directory):
                continue
            name, tenant = (
                str(directory),
                (directory.relative_to(root).parts[0], owner_of(directory)),
            )
            if self._began < self._retry_at.get(name, 0.0):
                self.unreadable[name] = before.get(name, "cannot be read")
            elif spent[tenant] >= TENANT_SECONDS:
                self._requested = True  # the next scan continues here
            else:
                began = self._now()
                self._try(directory)
                spent[tenant] += max(TENANT_SECONDS / MOST_AT_ONCE, self._now() - began)
                bad += name in self.unreadable
                if name in self.unreadable and spent[tenant] >= TENANT_SECONDS / 2:
                    self._retry_at[name] = self._began + RETRY_SECONDS
        if self._requested:
            now = self._now()
            self._due = min(self._due, now + _PAUSE_FACTOR * (now - self._began) * bool(bad))

    def _on_unreadable(self, directory: Path, error: OSError) -> None:
        why = unreadable_text(error)
        if self._is_news(directory, why):
            values = fields(path=directory, reason=why)
            if isinstance(error, TakenDirectory):
                log.warning(
                    "user's directory belongs to another, see lens-ship check", extra=values
                )
            else:
                log.warning("directory cannot be read, see lens-ship check", extra=values)
        self.unreadable[str(directory)] = why

    def _is_news(self, path: Path, why: str) -> bool:
        """Whether this was not the last that was logged about a path."""
        before, self._logged[str(path)] = self._logged.get(str(path)), why
        return before != why

    def _try(self, directory: Path) -> None:
        """Add a spool; whatever is wrong with it, the others are found all the same."""
        try:
            self._try_to_add(directory)
        except StateUnusable as error:
            self.unreadable[str(directory)] = str(error)
            if self._is_news(directory, str(error)):
                log.error(
                    "state cannot be written, spool not shipped yet",
                    extra=fields(path=directory, detail=error),
                )
        except Exception:
            why = "internal error, please report it"
            self.unreadable[str(directory)] = why
            if self._is_news(directory, why):
                log.exception("internal error, spool not shipped", extra=fields(path=directory))

    def _try_to_add(self, directory: Path) -> None:
        reader = Reader(directory)
        known = self._shipping.spools.get(reader.spool)
        shipped = known.reader if known else None
        if shipped and is_same_place(shipped.place, reader.place):
            return  # another path to it
        try:
            if not reader.segments():
                if reader.is_owned():
                    self._due = min(self._due, self._now() + NEW_SPOOL_SECONDS)
                return
            identity = self._identity(reader)
            if why := self._is_other(reader, identity, shipped):
                self._not_shipped(directory, why)
                return
        except (SpoolError, Misplaced, OSError) as error:
            if isinstance(error, SpoolError) and self._quarantine(reader, error):
                return
            self._not_shipped(directory, f"cannot be read: {error}")
            return
        if shipped and not self._shipping.remove_spool(reader.spool):
            self._requested = True  # a request with records of the copy is in flight
            self._due = min(self._due, self._now() + NEW_SPOOL_SECONDS)
            return
        self._shipping.add_spool(reader, identity)

    def _is_other(self, reader: Reader, identity: Identity, shipped: Reader | None) -> str:
        """Why a directory is not the spool of its id, "" if it is."""
        if not is_same_process(identity, self._ledger.identity(reader.spool)):
            return "has the id of a spool that another process wrote"
        stored = self._ledger.directory_of(reader.spool)
        known = shipped or (None if stored is None or is_missing(stored) else Reader(stored))
        if known is None or is_same_place(known.place, reader.place) or replaces(reader, known):
            return ""
        return f"has the id of {known.directory}, of which it is a copy"

    def _not_shipped(self, directory: Path, why: str) -> None:
        self.unreadable[str(directory)] = why
        if self._is_news(directory, why):
            values = fields(path=directory, reason=why)
            log.warning("spool not shipped, left untouched", extra=values)

    def _identity(self, reader: Reader) -> Identity:
        """Who wrote a spool, from its segments, or from the ledger if they are damaged."""
        try:
            return identity_of(
                reader, self._config.spool, by_directory=self._config.pod_directories
            )
        except (NotASpool, SpoolDamaged):
            known = self._ledger.identity(reader.spool)
            stored = self._ledger.directory_of(reader.spool)
            if known is None or stored is None or not is_same_place(stored, reader.place):
                raise
            return known
