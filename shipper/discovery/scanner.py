"""Finds the spools that are new below the root, and says which of them cannot be read, and why.

Whatever is wrong with one, the others are found all the same; and whoever fills the root with
thousands of folders waits himself, not his neighbours.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from shipper.config.schema import Config
from shipper.discovery.layout import closed_text, find_spools, identity_of, is_bare
from shipper.errors import Misplaced
from shipper.ledger.ledger import Ledger
from shipper.log import fields
from spooler.errors import NewerFormat, NotASpool, SpoolDamaged, SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

log = logging.getLogger(__name__)

# New spools of one tenant (a user in a folder of the root) that are taken in by one walk, and the
# wall time after which it looks at no more of them; the next walk goes on at once. Of more that
# cannot be read, each is looked at again after so many seconds, and the next walk waits for so many
# times as long as this one took: a quarter of the time at most goes into them.
MOST_AT_ONCE = 100
LOOK_SECONDS = 2.0
AGAIN_SECONDS = 30.0
_REST = 3.0
# A spool folder is made a moment before its first segment.
NEW_SPOOL_SECONDS = 0.2


class Newcomers:
    """Walks the root when it is due, and hands each new spool to `take_in`, once.

    `set_aside` is asked first about a spool that cannot be read; whether it took it.
    """

    def __init__(
        self,
        *,
        config: Config,
        ledger: Ledger,
        is_known: Callable[[Path], bool],
        take_in: Callable[[Reader, Identity], None],
        set_aside: Callable[[Reader, SpoolError], bool],
        now: Callable[[], float],
    ) -> None:
        self.unreadable: dict[str, str] = {}  # folder -> why
        self._config = config
        self._ledger = ledger
        self._is_known = is_known
        self._hand_over = take_in
        self._set_aside = set_aside
        self._now = now
        self._look = True  # the root is worth a walk
        self._walks = False
        self._looked = 0.0  # monotonic seconds: when the last walk began
        self._due = 0.0  # when the next one begins, if nothing appears before
        self._said: dict[str, str] = {}
        self._again: dict[str, float] = {}  # one of many unreadable ones -> when it is looked at

    @property
    def seconds(self) -> float:
        """How long to wait until the next walk."""
        return self._due - self._now()

    @property
    def is_done(self) -> bool:
        """Whether nothing is known to be left to walk for; from any thread."""
        return not self._look and not self._walks

    def look(self) -> None:
        """Walk at the next opportunity: something has appeared; from any thread."""
        self._look = True

    def walk_if_due(self) -> None:
        """Walk the root, if something has appeared or the last time is long ago."""
        if not self._look and self.seconds > 0:
            return
        self._walks, self._look = True, False  # in this order: `is_done` may be asked in between
        self._look_below(self._config.spool)
        self._walks = False

    def _look_below(self, root: Path) -> None:
        self._looked = self._now()
        self._due = self._looked + self._config.rescan_interval
        before, self.unreadable = self.unreadable, {}
        if _is_missing(root):
            self._say_once(str(root), "is not there yet; waiting for the first job to make it")
            return
        self._walk(root, before)
        self._again = {n: due for n, due in self._again.items() if n in self.unreadable}

    def _walk(self, root: Path, before: dict[str, str]) -> None:
        spent: defaultdict[tuple[str, int], float] = defaultdict(float)  # seconds, by tenant
        bad = 0
        for directory in find_spools(root, self._closed):
            if self._is_known(directory) or is_bare(directory):
                continue
            name, tenant = str(directory), (directory.relative_to(root).parts[0], _user(directory))
            if self._looked < self._again.get(name, 0.0):
                self.unreadable[name] = before.get(name, "cannot be read")
            elif spent[tenant] >= LOOK_SECONDS:
                self._look = True  # who has thousands of them waits: the next walk goes on
            else:
                began = self._now()
                self._try(directory)
                spent[tenant] += max(LOOK_SECONDS / MOST_AT_ONCE, self._now() - began)
                bad += name in self.unreadable
                if name in self.unreadable and spent[tenant] >= LOOK_SECONDS / 2:
                    self._again[name] = self._looked + AGAIN_SECONDS
        if self._look:
            now = self._now()
            self._due = min(self._due, now + _REST * (now - self._looked) * bool(bad))

    def _closed(self, folder: Path, error: OSError) -> None:
        text = closed_text(error)
        self.unreadable[str(folder)] = text
        self._say_once(str(folder), f"{text}; spools in it are not shipped: see lens-ship check")

    def _try(self, directory: Path) -> None:
        """Take a spool in; whatever is wrong with it, the others are found all the same."""
        try:
            self._take_in(directory)
        except Exception:
            text = "cannot be taken in, by a fault of this program; please report it"
            self.unreadable[str(directory)] = text
            if self._said.get(str(directory)) != text:
                self._said[str(directory)] = text
                log.exception(
                    "%s %s", directory, text, extra=fields(path=directory, reason="fault")
                )

    def _take_in(self, directory: Path) -> None:
        reader = Reader(directory)
        try:
            if not reader.segments():
                if reader.is_owned():
                    self._due = min(self._due, self._now() + NEW_SPOOL_SECONDS)
                return
            # Positions are kept by id: a second spool of one id would move those of the first.
            first = self._ledger.place_of(directory.name)
            if first is not None and first != directory and first.is_dir():
                text = f"has the id of {first}, which was there first; it is not shipped"
                self.unreadable[str(directory)] = text
                self._say_once(str(directory), text)
                return
            identity = self._identity(reader)
        except (SpoolError, Misplaced, OSError) as error:
            if isinstance(error, SpoolError) and self._set_aside(reader, error):
                return
            self.unreadable[str(directory)] = f"cannot be read: {error}"
            hint = "" if isinstance(error, NewerFormat) else "; it is left untouched"
            self._say_once(str(directory), f"cannot be read: {error}{hint}")
            return
        self._hand_over(reader, identity)

    def _identity(self, reader: Reader) -> Identity:
        """Who wrote a spool; where no segment can tell any more, what was known before."""
        try:
            return identity_of(
                reader, self._config.spool, by_directory=self._config.pod_directories
            )
        except (NotASpool, SpoolDamaged):
            known = self._ledger.identity(reader.spool)
            if known is None or self._ledger.place_of(reader.spool) != reader.directory:
                raise
            return known

    def _say_once(self, path: str, text: str) -> None:
        if self._said.get(path) != text:
            self._said[path] = text
            log.warning("%s %s", path, text, extra=fields(path=path, reason=text))


def _user(folder: Path) -> int:
    """Whose it is; -1 when it is gone."""
    try:
        return os.lstat(folder).st_uid
    except OSError:
        return -1


def _is_missing(root: Path) -> bool:
    """Whether nothing is there; what cannot be looked at is."""
    try:
        os.stat(root)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
