"""What has become of the records of one job, by the ledger and by its spools."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shipper.config.schema import Config
from shipper.discovery.layout import find_spools
from shipper.humanize import by_reason, counted
from shipper.ledger import service_status
from shipper.ledger.database import exists
from shipper.ledger.ledger import Ledger
from shipper.ledger.snapshot import SpoolRows, read_snapshot
from shipper.sinks import sink_names
from shipper.sinks.outcome import NO_URL, Reason
from shipper.status.collect import SpoolCollector
from spooler.errors import SpoolError
from spooler.spool.reader import Reader


@dataclass(kw_only=True)
class LaunchAccount:
    """Counts of records; `pending` are those that some sink has not got."""

    recorded: int = 0
    pending: int = 0
    delivered: Counter[str] = field(default_factory=Counter)  # by sink
    dead_letters: int = 0
    dropped: int = 0
    why: str = ""  # records are pending

    def text(self) -> str:
        """What is known, without the last full stop."""
        if not self.recorded + self.dropped:
            return (
                "nothing was recorded. If the job logs metrics, run `lens-ship hook status` in its"
                " environment"
            )
        parts = [f"{counted(self.delivered.total(), 'record')} delivered"]
        if len(+self.delivered) > 1:
            parts[0] += f" ({by_reason(+self.delivered)})"
        if self.dead_letters:
            parts.append(counted(self.dead_letters, "dead letter"))
        if self.dropped:
            parts.append(f"{self.dropped:,} dropped")
        parts.append(f"{self.pending:,} left" if self.pending else "nothing left")
        return ", ".join(parts) + (f" ({self.why})" if self.pending and self.why else "")


class Accountant:
    """Finds the spools of a job, and counts their records as often as asked."""

    def __init__(self, config: Config, launch: str) -> None:
        self._config = config
        self._launch = launch
        # Ids of spools begin with the second in which they were made.
        self._since = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - 1))
        self._found: dict[str, tuple[bool, SpoolCollector]] = {}  # spool -> whether it is the job's

    def count(self) -> LaunchAccount:
        """The account now.

        Raises:
            StateUnusable: the ledger cannot be read.
        """
        if not exists(self._config.state):
            return self._count(None)
        ledger = Ledger(self._config.state, exclusive=False)
        try:
            return self._count(ledger)
        finally:
            ledger.close()

    def _count(self, ledger: Ledger | None) -> LaunchAccount:
        total, names = LaunchAccount(), sink_names(self._config, ledger.sinks() if ledger else None)
        for spool, collector in self._spools(names, ledger):
            rows = read_snapshot(ledger, spool).get(spool, SpoolRows()) if ledger else SpoolRows()
            status = collector.collect(rows)
            total.recorded += status.written
            total.pending += status.pending
            total.dead_letters += status.dead_letters
            total.dropped += status.dropped
            total.delivered.update({one.sink: one.delivered for one in status.sinks})
        for outage in service_status.outages(ledger) if ledger and total.pending else ():
            if outage.until is None:
                total.why = self._why(outage.sink, outage.reason)
        return total

    def _why(self, sink: str, word: str) -> str:
        if word == NO_URL and not self._config.sinks:
            return "no receiver is given"
        reason = Reason.of(word)
        return f"{sink} {reason.sentence if reason else word}"

    def _spools(
        self, sinks: tuple[str, ...], ledger: Ledger | None
    ) -> Iterator[tuple[str, SpoolCollector]]:
        known = ledger.directories(self._since) if ledger else []
        for directory in (*find_spools(self._config.spool), *known):
            name = directory.name
            if name not in self._found and name >= self._since:
                is_own = self._is_own(directory, name, ledger)
                if is_own is not None:
                    self._found[name] = is_own, SpoolCollector(directory, sinks, self._config)
        yield from ((name, one) for name, (is_own, one) in self._found.items() if is_own)

    def _is_own(self, directory: Path, name: str, ledger: Ledger | None) -> bool | None:
        """Whether a process of the job writes a spool; None while that cannot be told."""
        known = ledger.identity(name) if ledger else None
        try:
            known = known or Reader(directory).identity()
        except (SpoolError, OSError):
            return None
        return known.launch == self._launch
