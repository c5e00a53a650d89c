"""Collectors: what they find in the training process or beside it goes to a master client.

The contract of a collector: one file, one class derived from `Collector`, one line in `REGISTRY`.

- `is_enabled()` says whether there is anything to collect from now; it costs little.
- `collect_data()` returns what there is, something false when there is nothing. It may be asked
  from one thread at a time, and does a bounded amount of work.
- `keep_turn()`, where there is one, is called every few seconds between two collections.
- `store_data(data)` reports it, and returns whether it was taken. It never raises: without a
  client, with a failing one and for data of another type it writes a line to the log.

Importing a collector starts nothing; a client is any object with `report_diagnosis_agent_metrics`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from spooler import async_exceptions, config
from spooler.dlrover.metric import DiagnosisDataType, WorkerTrainingMetric

logger = logging.getLogger("lens_ship.collectors")
_SAY_AGAIN_SECONDS = 60.0
REPORTED = "Reported %s: %d characters"

REGISTRY: dict[str, str] = {
    "log": "spooler.collectors.log:LogCollector",
    "metric": "spooler.collectors.metric:MetricCollector",
    "stack": "spooler.collectors.stack:StackCollector",
}
"""Name -> "module:class", loaded on use."""


class Collector:
    """What all collectors have: a client, and the way from data to a report."""

    name = ""  # as in `REGISTRY`
    title = ""  # what it reports, in log lines
    data_type = DiagnosisDataType.GENERIC

    def __init__(self) -> None:
        self._client: Any = None
        self.node_rank: int | None = None  # None: as the environment has it
        self._said = ("", 0.0)  # the last trouble, and when it was said

    def set_client(self, client: Any) -> None:
        """Report to `client` from now on; None for none."""
        self._client = client

    def is_enabled(self) -> bool:
        """Whether there is anything to collect from."""
        return True

    def collect_data(self) -> Any:
        """What there is, something false when there is nothing."""
        raise NotImplementedError

    def store_data(self, data: Any) -> bool:
        """Report `data`; whether it was taken."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what is open; collecting again opens it again."""

    @property
    def client(self) -> Any:
        """The client that was set, or that of the spool where one is configured, or None."""
        if self._client is None and os.environ.get(config.OUTPUT_PATH):
            from spooler.dlrover.master_client import SpoolMasterClient

            return SpoolMasterClient.singleton_instance()
        return self._client

    def _say(self, level: int, trouble: str) -> None:
        """Log what is wrong, and while nothing else is, once a minute: a log may be followed."""
        said, when = self._said
        if trouble != said or time.monotonic() - when >= _SAY_AGAIN_SECONDS:
            self._said = (trouble, time.monotonic())
            logger.log(level, "%s", trouble)

    def _refuse_type(self, data: Any, wanted: str) -> bool:
        kind = type(data).__name__
        logger.warning(
            "%s: the data is a %s, not %s. It is not reported.", self.title, kind, wanted
        )
        return False

    def _report(
        self,
        content: str,
        source: Mapping[str, Any] | None = None,
        done: Callable[[], None] = lambda: None,
        *,
        quiet: bool = False,
    ) -> bool:
        """Report `content`; `done` is called when it was taken, which a log line says too."""
        client = self.client
        if client is None:
            self._say(logging.WARNING, f"Master client not set, {self.name} data not reported")
            return False
        metric = WorkerTrainingMetric(data_type=self.data_type, data_content=content, source=source)
        if self.node_rank is not None:
            metric.node_rank = self.node_rank
        try:
            taken = client.report_diagnosis_agent_metrics(metric) is not False
        except (Exception, SystemExit) as error:  # a user's client may raise anything
            if async_exceptions.is_from_outside(error):
                raise
            self._say(logging.ERROR, f"Failed to report {self.name} data to master: {error}")
            return False
        if not taken:
            self._say(logging.ERROR, f"Failed to report {self.name} data to master: rejected")
            return False
        self._said = ("", 0.0)
        done()
        if not quiet:
            logger.info(REPORTED, self.title, len(content))
        return True
