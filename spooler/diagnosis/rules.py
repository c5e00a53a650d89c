"""The rule table: from what a failure left behind to what to do about it. Pure.

The first row that recognises something decides. What the program itself tells (`failures`) is asked
before the log, of which only the end counts: from the last traceback on, or the last lines.

A row says what to do while restarts are left. When `restart_count` has reached the budget, what
would have been another restart becomes `RELAUNCH_WORKER`: what a fresh process on this node has not
cured, a fresh node may. Rows that give up the node or the job do so at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from spooler.diagnosis.action import DiagnosisAction, DiagnosisActionType
from spooler.diagnosis.failures import exit_codes

_RESTART = DiagnosisActionType.RESTART_WORKER
_RELAUNCH = DiagnosisActionType.RELAUNCH_WORKER
_ABORT = DiagnosisActionType.JOB_ABORT

_LAST_LINES = 50
_EVIDENCE_LIMIT = 500
_TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row: any of `signs` (regular expressions) or `codes` (exit codes) makes it decide."""

    name: str
    action: DiagnosisActionType
    reason: str
    signs: tuple[str, ...] = ()
    codes: frozenset[int] = frozenset()


RULES = (
    Rule(
        name="gpu-lost",
        action=_RELAUNCH,
        reason="an accelerator of this node is gone or broken: no process here will get it back",
        signs=(
            r"GPU has fallen off the bus",
            r"GPU is lost",
            r"hipErrorNoDevice|no ROCm-capable device|No HIP GPUs are available",
            r"cudaErrorNoDevice|no CUDA-capable device|No CUDA GPUs are available",
            r"cudaErrorDevicesUnavailable|cudaErrorSystemNotReady",
            r"CUDA driver initialization failed",
            r"uncorrectable (?:double.bit )?ECC|ECC uncorrectable|cudaErrorECCUncorrectable",
            r"hipErrorECCNotCorrectable",
            # Of the codes that the driver logs, those that mean memory, bus or link of the device.
            r"Xid\b.{0,40}?\b(?:48|61|62|63|64|74|79|92|94|95|119|120|140)\b",
            r"amdgpu.*(?:GPU reset.*failed|ring .* timeout.*reset failed|device lost)",
            r"lib(?:cuda|amdhip64|hsa-runtime64)\.so[.\d]*: cannot open shared object",
        ),
    ),
    Rule(
        name="node-lost",
        action=_RELAUNCH,
        reason="the node is gone, is going, or cannot be worked on",
        signs=(
            r"node (?:is )?(?:lost|not ready|unreachable|down)\b|NodeNotReady|NodeLost",
            r"\b(?:preempted|preemption)\b|pod .*\bevicted\b|\bEvicted\b",
            r"No space left on device|Read-only file system|Input/output error|Stale file handle",
        ),
    ),
    Rule(
        name="host-memory",
        action=_RELAUNCH,
        reason="the node's memory did not suffice: a new place may have more",
        signs=(
            r"OOM-?Killed|oom-kill|Out of memory: Killed process|Memory cgroup out of memory",
            r"(?:^|[\s.:])MemoryError\b|Cannot allocate memory|std::bad_alloc",
            r"DefaultCPUAllocator: (?:can't|not enough)",
        ),
        codes=frozenset({137}),
    ),
    Rule(
        name="gpu-memory",
        action=_RESTART,
        reason="the accelerator's memory did not suffice: a fresh process has all of it",
        signs=(
            r"(?:CUDA|HIP|NPU|XPU)(?: error:)? out of memory|OutOfMemoryError",
            r"cudaErrorMemoryAllocation|hipErrorOutOfMemory|hipErrorMemoryAllocation",
            r"(?:CUBLAS|CUDNN|HIPBLAS|ROCBLAS|MIOPEN)_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED: ",
        ),
    ),
    Rule(
        name="collective",
        action=_RESTART,
        reason="a collective operation failed or did not end: all ranks have to begin anew",
        signs=(
            r"\b(?:NCCL|RCCL|HCCL)\b.{0,80}?\b(?:error|timeout|timed out|abort|fail)",
            r"nccl(?:System|Internal|Remote|UnhandledCuda|InvalidUsage)(?:Error)?\b",
            r"Watchdog caught collective operation timeout|DistBackendError|DistNetworkError",
            r"ProcessGroup\w* .{0,60}?(?:timeout|timed out|aborted)",
            r"Connection (?:reset|closed) by (?:remote )?peer|Socket Timeout|Broken pipe",
        ),
    ),
    Rule(
        name="gpu-error",
        action=_RESTART,
        reason="the accelerator reported an error that ends with the process's context",
        signs=(
            r"CUDA error|CUDA(?: kernel)? errors|cudaError\w+|device-side assert",
            r"HIP error|hipError\w+|Memory access fault by GPU|HSA_STATUS_ERROR",
            r"(?:CUBLAS|CUDNN|HIPBLAS|ROCBLAS|MIOPEN)_STATUS_\w+|\bXid\b",
        ),
    ),
    Rule(
        name="hang",
        action=_RESTART,
        reason="training has stopped making progress",
        signs=(r"\b(?:hang|hung|hanging|deadlock)\b", r"no step for \d+ s|heartbeat timeout"),
    ),
    Rule(
        name="user-error",
        action=_ABORT,
        reason="the program or its arguments are wrong: it would fail in the same way again",
        signs=(
            r"(?:^|[\s.:'\"(])(?:SyntaxError|IndentationError|TabError|ImportError|NameError)\b",
            r"(?:^|[\s.:'\"(])(?:ModuleNotFound|FileNotFound|NotADirectory|IsADirectory)Error\b",
            r"No module named |cannot import name |No such file or directory",
            r"name '\w+' is not defined|invalid syntax|unexpected indent",
            r"error: (?:unrecognized arguments|the following arguments are required)|UsageError",
        ),
        codes=frozenset({126, 127}),
    ),
)

_COMPILED = tuple(
    (rule, re.compile("|".join(rule.signs), re.IGNORECASE | re.MULTILINE)) for rule in RULES
)


def decide(described: str, log_tail: str, restart_count: int, budget: int) -> DiagnosisAction:
    """What to do: `described` as `failures.describe` gives it, `budget` how many restarts may be.

    Nothing to go by at all is no failure: `NONE`. A failure that no row knows is worth a restart.
    """
    for seen_in, text in (("failures", described), ("log", _end_of(log_tail))):
        for rule, signs in _COMPILED:
            evidence = _evidence(rule, signs, text, described if seen_in == "failures" else "")
            if evidence:
                return _within(budget, restart_count, rule, evidence, seen_in)
    if not described.strip():
        return DiagnosisAction(
            action_type=DiagnosisActionType.NONE,
            rule="nothing-failed",
            reason="neither the program nor its log tells of a failure",
        )
    unknown = Rule(name="unknown", action=_RESTART, reason="no rule knows this failure")
    first = described.strip().splitlines()[0][:_EVIDENCE_LIMIT]
    return _within(budget, restart_count, unknown, first, "failures")


def _within(
    budget: int, restart_count: int, rule: Rule, evidence: str, seen_in: str
) -> DiagnosisAction:
    """The rule's action, or the next stronger one when the restarts are used up."""
    action, name, reason = rule.action, rule.name, rule.reason
    if action is _RESTART and restart_count >= budget:
        action = _RELAUNCH
        reason = f"{reason}; {restart_count} of {budget} restarts have not helped"
    return DiagnosisAction(
        action_type=action, rule=name, reason=reason, evidence=evidence, seen_in=seen_in
    )


def _evidence(rule: Rule, signs: re.Pattern[str], text: str, described: str) -> str:
    """The line that the rule recognises, "" when there is none."""
    found = signs.search(text) if rule.signs else None
    if found is not None:
        begin = text.rfind("\n", 0, found.start()) + 1
        end = text.find("\n", found.end())
        return text[begin : end if end >= 0 else None].strip()[:_EVIDENCE_LIMIT]
    codes = sorted(exit_codes(described) & rule.codes)
    return f"exit code {codes[0]}" if codes else ""


def _end_of(log: str) -> str:
    """The part of a log that can be about the failure."""
    _, traceback, rest = log.rpartition(_TRACEBACK)
    return rest if traceback else "\n".join(log.splitlines()[-_LAST_LINES:])
