"""The client to give to collectors: a report is on disk when the call has returned.

It takes the place of a client that calls the training master itself: the service of this node
delivers what it commits. Which master that is stands in the identity of the spool, which is
written when the spool is begun: there the `master_addr` of the program goes before the
environment's `DLROVER_MASTER_ADDR`. A client that is made after the first record comes too late for
that, and says so; its address then stands in its reports alone.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from spooler import async_exceptions, config
from spooler.dlrover import metric
from spooler.errors import ReportRefused
from spooler.recorder import recorder
from spooler.records import failure, report
from spooler.spool import codec, identity
from spooler.spool import format as fmt

# A step of the interpreter decides who is first, not a lock: a forked child need not wait for one.
_instances: dict[str, SpoolMasterClient] = {}
logger = logging.getLogger("lens_ship.master_client")
_ERROR_CHARACTERS = 8192


class SpoolMasterClient:
    """Commits diagnosis reports to the spool of this process; never raises, never waits for long.

    `master_addr` ("host:port") names the master to deliver to; without it the environment does.
    Make the client before `wandb.init`, or name the master in the environment as well. `node_id`
    and `node_type` stand in for reports that have none of their own.
    """

    def __init__(
        self, master_addr: str = "", node_id: int | None = None, node_type: str | None = None
    ) -> None:
        self.master_addr = str(master_addr or "").strip()
        self._own = {"node_id": node_id, "node_type": node_type}
        if self.master_addr:
            _name_master(self.master_addr)

    @classmethod
    def singleton_instance(
        cls, master_addr: str = "", node_id: int | None = None, node_type: str | None = None
    ) -> SpoolMasterClient:
        """The one client of this process, with the arguments of the first call."""
        made = _instances.get("this process")
        return made or _instances.setdefault("this process", cls(master_addr, node_id, node_type))

    def report_diagnosis_agent_metrics(self, data: Any) -> bool:
        """Commit one report; True once it is safe.

        `data` is a `WorkerTrainingMetric`, ours or DLRover's. What no master could take is counted
        as dropped, by reason, with a warning. A report that has a `source` is not counted when the
        spool refuses it: its collector can read it there again.
        """

        def body(now: float) -> dict[str, Any]:
            fields = metric.taken(data, now=now, own=self._own)
            source = getattr(data, "source", None)
            return report.encode(
                time=now,
                **fields,
                source=None if source is None else dict(source),
                master=self.master_addr,
                monotonic=time.monotonic(),
            )

        return self._commit(report.NAME, body)

    def report_failures(self, error_data: Any, restart_count: Any = -1, level: Any = "") -> bool:
        """Commit a failure, before anything is decided about it; True once it is safe.

        The arguments are those of DLRover's client. A master only logs it, see docs/dlrover.md.
        """

        def body(now: float) -> dict[str, Any]:
            return failure.encode(
                time=now,
                error_data=str(error_data)[:_ERROR_CHARACTERS],
                restart_count=restart_count if isinstance(restart_count, int) else -1,
                level=str(getattr(level, "value", level)),
                **metric.node(self._own),
                master=self.master_addr,
                monotonic=time.monotonic(),
            )

        return self._commit(failure.NAME, body)

    def _commit(self, kind: str, body: Callable[[float], dict[str, Any]]) -> bool:
        """Commit the record with this body; what has none is counted as dropped."""
        try:
            made = body(time.time())
            packed = codec.pack(made)
            if len(packed) > fmt.BODY_LIMIT:
                raise ReportRefused("report-content", f"{len(packed)} bytes are too many")
        except Exception as error:
            if async_exceptions.is_async(error):
                recorder().interrupted()
                raise
            reason = getattr(error, "reason", "unencodable")
            logger.warning("A report was dropped (%s): %s", reason, error)
            recorder().bug(error, reason=reason)
            return False
        if not os.environ.get(config.OUTPUT_PATH):
            logger.warning("Reports are discarded: %s is not set", config.OUTPUT_PATH)
            return False
        return recorder().append(kind, packed, kept="source" in made)


def _name_master(address: str) -> None:
    """Have the spool of this process name this master, as long as it is not begun."""
    mine = recorder()
    known = mine.master_addr or os.environ.get(identity.MASTER_ADDR, "").strip()
    if mine.directory is None:
        mine.master_addr = mine.master_addr or address
    elif known != address:
        logger.warning(
            "The client names the master %s, but the spool of this process was opened before."
            " Its reports go to %s. Create the client before wandb.init, or set %s.",
            address,
            known or "no master",
            identity.MASTER_ADDR,
        )
