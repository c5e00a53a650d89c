"""What can be decided about a failed training process; names and values are DLRover's. Pure."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass


class DiagnosisActionType(str, enum.Enum):
    """What to do. Members are texts, as in DLRover."""

    NONE = "no_action"
    ANY = "any_action"
    LOG = "log"
    JOB_ABORT = "job_abortion"
    MASTER_RELAUNCH_WORKER = "master_relaunch_worker"
    EVENT = "event"
    RESTART_WORKER = "restart_worker"  # start the processes of this node again, where they are
    RELAUNCH_WORKER = "relaunch_worker"  # give this node up and start on another


@dataclass(frozen=True, kw_only=True)
class DiagnosisAction:
    """A decision with its reason: see `spooler.records.decision` for the fields."""

    action_type: DiagnosisActionType
    rule: str
    reason: str
    evidence: str = ""
    seen_in: str = ""

    def to_json(self) -> str:
        """All fields, the type by its value."""
        return json.dumps({**self.__dict__, "action_type": self.action_type.value})
