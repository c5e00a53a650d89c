"""Log lines of the program, without a file: recorded as those that the log collector finds."""

from __future__ import annotations

import logging
import threading
from typing import Any

from spooler.dlrover.master_client import SpoolMasterClient
from spooler.dlrover.metric import DiagnosisDataType, WorkerTrainingMetric
from spooler.hooks.guard import guarded


class LogHandler(logging.Handler):
    """Records each line that a logger emits before the call returns. Raises nothing.

    Add it to a logger: `logging.getLogger().addHandler(spooler.LogHandler())`. Lines of lens-ship's
    own loggers are left out.
    """

    def __init__(self, level: int | str = logging.NOTSET) -> None:
        super().__init__(level)
        self._inside = threading.local()

    def handle(self, record: logging.LogRecord) -> Any:
        """Record one line that passes the filters.

        Without the lock of `logging.Handler`: the recorder may write to stderr while it is locked,
        and stderr may be a logger, so two threads would wait for each other.
        """
        passed: Any = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("lens_ship") and not getattr(self._inside, "now", False):
            self._inside.now = True  # what it formats may log
            try:
                guarded(self._emit, record)
            finally:
                self._inside.now = False

    def _emit(self, record: logging.LogRecord) -> None:
        SpoolMasterClient.singleton_instance().report_diagnosis_agent_metrics(
            WorkerTrainingMetric(
                timestamp=int(record.created),
                data_type=DiagnosisDataType.TRAINING_LOG,
                data_content=f"{self.format(record)}\n",
            )
        )
