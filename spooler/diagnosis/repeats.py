"""When a failure repeats itself: the same evidence again, and no step of progress. Pure.

What the node, the other ranks or the scheduler may cause is not counted: a wrong `JOB_ABORT` is the
worst outcome.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from spooler.diagnosis.action import DiagnosisAction, DiagnosisActionType
from spooler.diagnosis.failures import exit_codes

# Rules whose failures the program itself may cause, in the same way each time.
_COUNTED = frozenset({"gpu-memory", "gpu-error", "crash", "unknown"})
# A failure that is older counts as another one. Without steps, progress shows in the time alone.
_STEP_SECONDS, _NO_STEP_SECONDS = 86400.0, 3600.0
LONGEST_SECONDS = _STEP_SECONDS
_VARIES = re.compile(r"0x[0-9a-f]+|\d+", re.IGNORECASE)
_RESTART, _RELAUNCH = DiagnosisActionType.RESTART_WORKER, DiagnosisActionType.RELAUNCH_WORKER


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """The last failure, and how many in a row were the same."""

    sign: str  # what it left behind, without numbers; "": it is not counted
    count: int
    step: int | None  # the last one that was recorded, None for none
    time: float  # Unix seconds


def count(
    before: Repeats | None, action: DiagnosisAction, exception: str, step: int | None, now: float
) -> Repeats:
    """This failure after the one `before`; `exception` is the last one in the log."""
    sign = ""
    says_why = exception or action.rule != "unknown" or not exit_codes(action.evidence)
    if says_why and action.rule in _COUNTED and action.action_type in (_RESTART, _RELAUNCH):
        sign = _VARIES.sub("#", f"{action.rule}: {action.evidence}: {exception}")
    repeats = Repeats(sign=sign, count=bool(sign) * 1, step=step, time=now)
    if before is None or not sign or sign != before.sign:
        return repeats
    if step is not None and (before.step is None or step > before.step):
        return repeats
    limit = _NO_STEP_SECONDS if step is None else _STEP_SECONDS
    if not 0 <= now - before.time <= limit:
        return repeats
    return replace(repeats, count=before.count + 1, step=before.step)


def limited(action: DiagnosisAction, repeats: Repeats, limit: int) -> DiagnosisAction:
    """The action of the rules, or `JOB_ABORT` from the `limit`-th repeat on; 0: never.

    One failure earlier another node is asked for: a broken one may repeat a failure, too.
    """
    number = repeats.count
    if not limit or number < limit - 1 or not number:
        return action
    told = f"{action.reason}; it has failed {number} times in the same way, without progress"
    if number >= limit:
        return replace(action, action_type=DiagnosisActionType.JOB_ABORT, reason=told)
    if action.action_type is _RESTART:
        return replace(action, action_type=_RELAUNCH, reason=told)
    return action
