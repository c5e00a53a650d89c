"""The part of lens-ship that runs inside the training process.

Importing it starts no thread, opens no file and loads nothing but itself; everything begins at
the first call. Names are resolved on use, so that the service can import `spooler.spool` without
the hook.
"""

from __future__ import annotations

__version__ = "0.1.0"

# As `typing` has it, which takes longer to load than all that is needed here; type checkers know
# the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from spooler.activate import install as install
    from spooler.activate import uninstall as uninstall
    from spooler.collectors.log import LogCollector as LogCollector
    from spooler.collectors.metric import MetricCollector as MetricCollector
    from spooler.collectors.stack import StackCollector as StackCollector
    from spooler.diagnosis.action import DiagnosisAction as DiagnosisAction
    from spooler.diagnosis.action import DiagnosisActionType as DiagnosisActionType
    from spooler.diagnosis.agent import DiagnosisAgent as DiagnosisAgent
    from spooler.master_client import SpoolMasterClient as SpoolMasterClient
    from spooler.metric import DiagnosisDataType as DiagnosisDataType
    from spooler.metric import WorkerTrainingMetric as WorkerTrainingMetric
    from spooler.reporter import get_global_reporter as get_global_reporter
    from spooler.reporter import stats as stats

_FRONT = {
    "install": "spooler.activate",
    "uninstall": "spooler.activate",
    "get_global_reporter": "spooler.reporter",
    "stats": "spooler.reporter",
    "DiagnosisAgent": "spooler.diagnosis.agent",
    "DiagnosisAction": "spooler.diagnosis.action",
    "DiagnosisActionType": "spooler.diagnosis.action",
    "LogCollector": "spooler.collectors.log",
    "MetricCollector": "spooler.collectors.metric",
    "StackCollector": "spooler.collectors.stack",
    "SpoolMasterClient": "spooler.master_client",
    "WorkerTrainingMetric": "spooler.metric",
    "DiagnosisDataType": "spooler.metric",
}

__all__ = [
    "install",
    "uninstall",
    "stats",
    "get_global_reporter",
    "DiagnosisAgent",
    "DiagnosisAction",
    "DiagnosisActionType",
    "LogCollector",
    "MetricCollector",
    "StackCollector",
    "SpoolMasterClient",
    "WorkerTrainingMetric",
    "DiagnosisDataType",
]


def __getattr__(name: str) -> Any:
    room = _FRONT.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(room), name)
