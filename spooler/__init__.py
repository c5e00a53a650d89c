"""The part of lens-ship that runs inside the training process.

Importing it starts no thread, opens no file and loads nothing but itself; everything begins at
the first call. Names are resolved on use, so that the service can import `spooler.spool` without
the hook.
"""

from __future__ import annotations

# As `typing` has it, which takes longer to load than all that is needed here; type checkers know
# the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from spooler._version import __version__ as __version__
    from spooler.activate import install as install
    from spooler.activate import uninstall as uninstall
    from spooler.collectors.log import LogCollector as LogCollector
    from spooler.collectors.metric import MetricCollector as MetricCollector
    from spooler.collectors.stack import StackCollector as StackCollector
    from spooler.diagnosis.action import DiagnosisAction as DiagnosisAction
    from spooler.diagnosis.action import DiagnosisActionType as DiagnosisActionType
    from spooler.diagnosis.agent import DiagnosisAgent as DiagnosisAgent
    from spooler.direct import finish as finish
    from spooler.direct import log as log
    from spooler.direct import start_run as start_run
    from spooler.dlrover.master_client import SpoolMasterClient as SpoolMasterClient
    from spooler.dlrover.metric import DiagnosisDataType as DiagnosisDataType
    from spooler.dlrover.metric import WorkerTrainingMetric as WorkerTrainingMetric
    from spooler.dlrover.reporter import get_global_reporter as get_global_reporter
    from spooler.dlrover.reporter import stats as stats
    from spooler.log_handler import LogHandler as LogHandler
    from spooler.notebook import ship as ship

_FRONT = {
    "__version__": "spooler._version",
    "install": "spooler.activate",
    "uninstall": "spooler.activate",
    "log": "spooler.direct",
    "start_run": "spooler.direct",
    "finish": "spooler.direct",
    "LogHandler": "spooler.log_handler",
    "ship": "spooler.notebook",
    "get_global_reporter": "spooler.dlrover.reporter",
    "stats": "spooler.dlrover.reporter",
    "DiagnosisAgent": "spooler.diagnosis.agent",
    "DiagnosisAction": "spooler.diagnosis.action",
    "DiagnosisActionType": "spooler.diagnosis.action",
    "LogCollector": "spooler.collectors.log",
    "MetricCollector": "spooler.collectors.metric",
    "StackCollector": "spooler.collectors.stack",
    "SpoolMasterClient": "spooler.dlrover.master_client",
    "WorkerTrainingMetric": "spooler.dlrover.metric",
    "DiagnosisDataType": "spooler.dlrover.metric",
}

__all__ = [name for name in _FRONT if name != "__version__"]


def __getattr__(name: str) -> Any:
    room = _FRONT.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(room), name)
