"""What kinds of records lie where in each spool, as far as one of the lanes has read them.

Most records are of one kind, and most sinks want another. What one lane has read and found sound
need not be read by a second one that has no use for it: it is passed at once, and counted as
passed. Records never change, so what is known of them stays true.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from spooler.spool.reader import Chunk

# A few words each; what is forgotten is read.
_SPOOLS = 4096
_STRETCHES = 64  # of one spool, the last ones


class _Stretch(NamedTuple):
    """All records beyond `after` as far as `through`."""

    after: int
    through: int
    kinds: frozenset[str]


class Contents:
    """Of all spools; safe for several threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, deque[_Stretch]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, spool: str, after: int, chunk: Chunk) -> None:
        """Remember what was read beyond `after`, if every record of it was there and sound."""
        if chunk.damage or not chunk.records:
            return
        found = _Stretch(after, chunk.through, frozenset({one.kind for one in chunk.records}))
        with self._lock:
            known = self._known.setdefault(spool, deque(maxlen=_STRETCHES))
            self._known.move_to_end(spool)
            if len(self._known) > _SPOOLS:
                self._known.popitem(last=False)
            if any(one.after <= after and found.through <= one.through for one in known):
                return
            last = known[-1] if known else None
            if last and last.kinds == found.kinds and last.after <= after <= last.through:
                known[-1] = found._replace(after=last.after)
            else:
                known.append(found)

    def without(self, spool: str, after: int, wanted: AbstractSet[str]) -> int:
        """The position up to which nothing beyond `after` is of a `wanted` kind; often `after`."""
        with self._lock:
            for one in self._known.get(spool, ()):
                if one.after <= after < one.through and one.kinds.isdisjoint(wanted):
                    after = one.through
        return after
