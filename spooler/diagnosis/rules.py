"""The rule table: from what a failure left behind to the action for it. Pure.

Each line of the failure text and of the end of the log is matched on its own. The strongest
evidence decides. Among equals the first line does, because the process that failed first is the
cause and the others follow it. From strong to weak:

0. `OPERATOR`: what the operator has named as an error of the node (`NodeErrors`).
1. `NODE`: the kernel, the driver or the scheduler reports that a device or the node is lost.
2. `CAUSE`: a process reports what went wrong in it.
3. `KILLED`: a process got SIGKILL and nothing says why. The usual cause is memory.
4. `PROGRAM`: the log ends with an exception that the program would raise again.
5. `SYMPTOM`: what the other ranks report after the first one has failed.

If both are equally strong, what the program reports (`failures`) goes before its log. A wrong
`JOB_ABORT` is the worst outcome: a line of a log counts for it only as the last exception of an
uncaught traceback, and only if there is no other cause.

When `restart_count` has reached the budget, `RESTART_WORKER` becomes `RELAUNCH_WORKER`: a fresh
process on this node has not helped, a fresh node may.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from spooler.diagnosis.action import DiagnosisAction, DiagnosisActionType
from spooler.diagnosis.failures import exit_codes

_RESTART = DiagnosisActionType.RESTART_WORKER
_RELAUNCH = DiagnosisActionType.RELAUNCH_WORKER
_ABORT = DiagnosisActionType.JOB_ABORT

_NO_MEMORY = "the memory of the node was not enough: another node may have more"
_WRONG_PROGRAM = "the program or its arguments are wrong: it would fail in the same way again"

OPERATOR, NODE, CAUSE, KILLED, PROGRAM, SYMPTOM = range(-1, 5)

_LAST_LINES = 100  # of a log: what is older is about something else
_FAILURE_LINES = 400
_LINE_LIMIT = 2000  # characters: matching takes time in proportion to them
_EVIDENCE_LIMIT = 500
_TRACEBACK = "Traceback (most recent call last)"
# What a launcher puts before a line that it passes on: `[rank3]: `, `3: `, `[1,0]<stderr>:`.
_PREFIX = re.compile(
    r"(?:\x1b\[[\d;]{0,9}m)?"
    r"(?:\[(?:rank|default|worker)?[ _]?\d{1,5}\]: ?|\d{1,5}: |\[\d{1,5},\d{1,5}\]<\w{1,8}>: ?)?"
    r"(?:\x1b\[[\d;]{0,9}m)?"
)
_PATH = re.compile(r"(?<![\w.~-])[\w.~-]{0,100}/[\w.~/-]{1,500}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row: any of `signs` (regular expressions) or `codes` (exit codes) matches.

    `raised`: the signs name exceptions, which libraries raise and catch. A log needs more than a
    name: it has to be the last exception of a traceback.
    """

    name: str
    action: DiagnosisActionType
    weight: int
    reason: str
    signs: tuple[str, ...] = ()
    codes: frozenset[int] = frozenset()
    raised: bool = False


RULES = (
    Rule(
        name="gpu-lost",
        action=_RELAUNCH,
        weight=NODE,
        reason="a GPU of this node is lost or broken: no process on the node gets it back",
        signs=(
            r"GPU has fallen off the bus|GPU is lost|RmInitAdapter failed",
            r"Unable to determine the device handle for GPU",
            r"hipErrorNoDevice|no ROCm-capable device|No HIP GPUs are available",
            r"cudaErrorNoDevice|no CUDA-capable device|No CUDA GPUs are available",
            r"cudaErrorDevicesUnavailable|cudaErrorSystemNotReady|system not yet initialized",
            r"CUDA driver initialization failed",
            r"uncorrectable (?:double.bit )?ECC|ECC uncorrectable|double.bit ECC",
            r"cudaErrorECCUncorrectable|hipErrorECCNotCorrectable",
            # Of the codes that the driver logs, those that mean memory, bus or link of the device.
            (
                r"\bXid\b(?: error| \([^()]{1,40}\))?:? "
                r"(?:48|61|62|63|64|74|79|92|94|95|119|120|140)\b(?!:)"
            ),
            r"\bamdgpu\b.{0,120}?(?<! 0 )(?<! 0 new )uncorrectable (?:hardware )?error",
            r"\bamdgpu\b.{0,120}?(?:GPU reset\W.{0,40}failed|device lost|RAS poison)",
            r"\[Hardware Error\]:.{0,120}?(?:Uncorrected|Machine check|fatal)",
            r"\bEDAC \w{1,9}\W.{0,40}?\bUE\b",
            r"lib(?:cuda|amdhip64|hsa-runtime64)\.so[.\d]{0,20}: cannot open shared object",
        ),
    ),
    Rule(
        name="node-lost",
        action=_RELAUNCH,
        weight=NODE,
        reason="the node is lost, is leaving, or cannot be worked on",
        signs=(
            (
                r"\bnode (?:[\w.-]{1,80} )?(?:is |has been |status is )?(?:now )?"
                r"(?:lost|not ?ready|unreachable|down|shutting down)\b"
            ),
            r"\bNodeNotReady\b|\bNodeLost\b|\bNode_?Shutdown\b|\bNODE[_ ]FAIL(?:URE|ED)?\b",
            r"\b(?:was|were|been|being|is|got|job|pod|due to|instance) preempt(?:ed|ion)\b",
            r"\bpreempted by\b|(?-i:\bPREEMPTED\b)|\bpreempting pod\b",
            r"\bpod\b.{0,80}?\bevicted\b|\breason\W{1,4}Evicted\b|(?-i:^Evicted\b)",
            r"TaintManagerEviction|taint.{0,20}eviction|NoExecute taint",
            r"\bnode was low on resource\b|\bmarking for deletion pod\b",
            r"\bspot\b.{0,40}?\b(?:reclaim|interrupt|terminat)",
            r"\binstance\b.{0,40}?\b(?:scheduled for termination|being terminated|reclaimed)",
            r"No space left on device|Read-only file system|Input/output error",
            r"Stale file handle|Transport endpoint is not connected",
        ),
    ),
    Rule(
        name="host-memory",
        action=_RELAUNCH,
        weight=NODE,
        reason=_NO_MEMORY,
        signs=(
            r"\bOOM-?Killed\b|\boom[-_]kill\b|Out of memory: Kill(?:ed)? process",
            r"Memory cgroup out of memory|OUT_OF_MEMORY|\btask \d{1,9}.{0,20}?: Out Of Memory",
        ),
    ),
    Rule(
        name="wrong-build",
        action=_ABORT,
        weight=CAUSE,
        reason="a library is not built for these GPUs: it would fail again",
        signs=(
            r"hipErrorNoBinaryForGpu|Unable to find code object for all current devices",
            r"no kernel image is available for execution|cudaErrorNoKernelImageForDevice",
            r"hipErrorSharedObjectInitFailed|invalid device function|hipErrorInvalidDeviceFunction",
        ),
    ),
    Rule(
        name="host-memory",
        action=_RELAUNCH,
        weight=CAUSE,
        reason=_NO_MEMORY,
        signs=(
            r"(?:^|[\s.:'\"(])MemoryError\b|Cannot allocate memory|std::bad_alloc",
            r"DefaultCPUAllocator: (?:can't|not enough)|insufficient shared memory",
        ),
    ),
    Rule(
        name="gpu-memory",
        action=_RESTART,
        weight=CAUSE,
        reason="the memory of the GPU was not enough: a fresh process has all of it",
        signs=(
            r"(?:CUDA|HIP|NPU|XPU)(?: error:)? out of memory|\bOutOfMemoryError\b",
            r"cudaErrorMemoryAllocation|hipErrorOutOfMemory|hipErrorMemoryAllocation",
            r"(?:CUBLAS|CUDNN|HIPBLAS|ROCBLAS|MIOPEN)_STATUS_ALLOC_FAILED|RESOURCE_EXHAUSTED: ",
        ),
    ),
    Rule(
        name="gpu-error",
        action=_RESTART,
        weight=CAUSE,
        reason="the GPU reported an error that ends with the context of the process",
        signs=(
            r"CUDA(?: kernel)? errors?\b|cudaError[A-Z]\w{1,60}|device-side assert",
            r"HIP error|hipError[A-Z]\w{1,60}|Memory access fault by GPU|HSA_STATUS_ERROR",
            r"HW Exception by GPU|\bring \w{1,20} timeout\b",
            r"(?:CUBLAS|CUDNN|HIPBLAS|ROCBLAS|MIOPEN)_STATUS_\w{1,60}|\bXid\b",
        ),
    ),
    Rule(
        name="crash",
        action=_RESTART,
        weight=CAUSE,
        reason="native code crashed: a fresh process may not",
        signs=(
            r"terminate called (?:after|without|recursively)|Fatal Python error",
            r"Segmentation fault|\bSIG(?:SEGV|ABRT|BUS|FPE|ILL)\b|\bcore dumped\b",
            r"killed by signal: (?:Bus error|Aborted)",
            r"double free or corruption|corrupted size vs|malloc\(\): |free\(\): invalid",
        ),
        codes=frozenset({132, 134, 135, 136, 139}),
    ),
    Rule(
        name="host-memory",
        action=_RELAUNCH,
        weight=KILLED,
        reason="the process was killed, most likely because the memory of the node was not enough",
        signs=(
            r"\bSignal 9\b|\bSIGKILL\b|killed by signal:? (?:9\b|Killed)|on signal 9\b",
            r"(?:^|: |\s\d{1,9} )Killed\s{0,9}$",
        ),
        codes=frozenset({137}),
    ),
    Rule(
        name="user-error",
        action=_ABORT,
        weight=PROGRAM,
        reason=_WRONG_PROGRAM,
        signs=(
            r"(?:^|[\s:\]>'\"(])(?-i:SyntaxError|IndentationError|TabError|NameError)\b",
            r"(?:^|[\s:\]>'\"(])(?-i:ImportError|ModuleNotFoundError|FileNotFoundError)\b",
            r"(?:^|[\s:\]>'\"(])(?-i:NotADirectoryError|IsADirectoryError|UsageError)\b",
            r"(?:^|: )No module named |(?:^|: )cannot import name |\[Errno 2\] No such file",
            r"(?:^|: )name '\w{1,200}' is not defined|(?:^|: )invalid syntax",
        ),
        codes=frozenset({126, 127}),
        raised=True,
    ),
    Rule(
        name="user-error",
        action=_ABORT,
        weight=PROGRAM,
        reason=_WRONG_PROGRAM,
        signs=(
            r"(?:^|: )[\w.-]{1,200}: error: (?:unrecognized|the following|argument|ambiguous) ",
            r"(?:^|[/ ])python[\d.]{0,5}: (?:can't open file|No module named)",
            r"(?:^|[ /])(?:bash|sh|zsh|dash): .{1,300}: (?:command not found|not found)$",
        ),
    ),
    Rule(
        name="denied",
        action=_ABORT,
        weight=PROGRAM,
        reason="a permission, a credential or a quota of the job is missing: it would fail again",
        signs=(
            r"(?:^|[\s:\]>'\"(])(?-i:PermissionError|GatedRepoError)\b|\[Errno 13\] Permission",
            r"\[Errno 122\] Disk quota|Disk quota exceeded",
            r"\b401 (?:Client Error|Unauthorized)|\b403 (?:Client Error|Forbidden)",
            r"Invalid (?:user token|credentials|API key)|\bAccessDenied\b",
        ),
        raised=True,
    ),
    Rule(
        name="collective",
        action=_RESTART,
        weight=SYMPTOM,
        reason="a collective operation failed or did not end: all ranks have to start again",
        signs=(
            r"\b(?:NCCL|RCCL|HCCL)\b.{0,80}?\b(?:error|timeout|timed out|abort|fail)",
            r"nccl(?:System|Internal|Remote|UnhandledCuda|InvalidUsage)(?:Error)?\b",
            r"Watchdog caught collective operation timeout|DistBackendError|DistNetworkError",
            r"ProcessGroup\w{0,20} .{0,60}?(?:timeout|timed out|aborted)",
            r"Connection (?:reset|closed|refused) by (?:remote )?peer|Connection refused",
            r"Socket Timeout|Broken pipe|RendezvousTimeoutError|RendezvousConnectionError",
        ),
    ),
    Rule(
        name="hang",
        action=_RESTART,
        weight=SYMPTOM,
        reason="training has stopped making progress",
        signs=(r"\b(?:hang|hung|hanging|deadlock)\b", r"no step for \d{1,9} s|heartbeat timeout"),
    ),
)

_NODE_ERROR = Rule(
    name="node-error",
    action=_RELAUNCH,
    weight=OPERATOR,
    reason="the operator has named this as an error of the node",
)
_COMPILED = tuple((rule, re.compile("|".join(rule.signs), re.IGNORECASE)) for rule in RULES)
_NAMES_A_PATH = re.compile(r"\[Errno|python|cannot open", re.IGNORECASE)


ANY = "{}"  # in an operator's pattern


@dataclass(frozen=True, kw_only=True)
class NodeErrors:
    """What an operator has named: parts of a line, the same with `{}` for any text, exit codes.

    A regular expression may never end on some line, and Python does not let it be ended.
    """

    texts: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    codes: frozenset[int] = frozenset()

    def found(self, line: str) -> str:
        """The evidence in a line, "" for none. A line may show the setting itself."""
        told = self._without_setting(line) if "#" in line else line
        if any(text in told for text in self.texts):
            return line.strip()
        if any(_has_in_order(told, pattern.split(ANY)) for pattern in self.patterns):
            return line.strip()
        if self.codes and (codes := self.codes & exit_codes(line)):
            return f"exit code {min(codes)}"
        return ""

    def _without_setting(self, line: str) -> str:
        mine = {*self.texts, *self.patterns}
        return "#".join(part for part in line.split("#") if part.strip(" \t\r'\"") not in mine)


NO_NODE_ERRORS = NodeErrors()


def _has_in_order(line: str, texts: list[str]) -> bool:
    at = 0
    for text in texts:
        at = line.find(text, at)
        if at < 0:
            return False
        at += len(text)
    return True


def named(text: str) -> tuple[str, ...]:
    """The parts of a setting like DLRover's FAILURE_NODE_ERRORS: `#one error# another error#`."""
    return tuple(part.strip() for part in text.split("#") if part.strip())


@dataclass(frozen=True, order=True)
class _Match:
    """Evidence. The smallest decides."""

    weight: int
    source: int  # 0: `failures`, 1: the log
    line: int
    row: int
    text: str


def decide(
    described: str,
    log_tail: str,
    restart_count: int,
    budget: int,
    node_errors: NodeErrors = NO_NODE_ERRORS,
) -> DiagnosisAction:
    """The action: `described` is a text of `failures.describe`, `budget` the allowed restarts.

    Without any evidence of a failure it is `NONE`. An unknown failure is restarted.
    """
    lines = described.splitlines()
    if len(lines) > _FAILURE_LINES:
        lines = lines[: _FAILURE_LINES // 2] + lines[-_FAILURE_LINES // 2 :]
    log = log_tail.splitlines()
    matches = [
        *_named(0, lines, node_errors),
        *_named(1, log, node_errors),
        *_matches(0, lines),
        *_matches(1, log[-_LAST_LINES:]),
    ]
    if matches:
        best = min(matches)
        seen_in = ("failures", "log")[best.source]
        rule = _NODE_ERROR if best.weight == OPERATOR else RULES[best.row]
        return _within(budget, restart_count, rule, best.text, seen_in)
    if not described.strip():
        return DiagnosisAction(
            action_type=DiagnosisActionType.NONE,
            rule="nothing-failed",
            reason="neither the program nor its log reports a failure",
        )
    unknown = Rule(
        name="unknown", action=_RESTART, weight=SYMPTOM, reason="no rule matches this failure"
    )
    first = described.strip().splitlines()[0][:_EVIDENCE_LIMIT]
    return _within(budget, restart_count, unknown, first, "failures")


def _within(
    budget: int, restart_count: int, rule: Rule, evidence: str, seen_in: str
) -> DiagnosisAction:
    """The rule's action, or the next stronger one when the restarts are used up."""
    action, reason = rule.action, rule.reason
    if action is _RESTART and restart_count >= budget:
        action = _RELAUNCH
        reason = f"{reason}; {restart_count} of {budget} restarts have not helped"
    return DiagnosisAction(
        action_type=action, rule=rule.name, reason=reason, evidence=evidence, seen_in=seen_in
    )


def last_exception(log_tail: str) -> str:
    """The last exception that the end of a log has, "" for none."""
    lines = _bare(log_tail.splitlines()[-_LAST_LINES:])
    raised = _last_raised(lines)
    return lines[raised] if raised is not None and raised < len(lines) else ""


def _named(source: int, lines: Iterable[str], node_errors: NodeErrors) -> Iterator[_Match]:
    if node_errors == NO_NODE_ERRORS:
        return
    for number, line in enumerate(lines):
        if text := node_errors.found(line[:_LINE_LIMIT]):
            yield _Match(OPERATOR, source, number, 0, text[:_EVIDENCE_LIMIT])


def _bare(lines: list[str]) -> list[str]:
    """The lines without what a launcher puts before them."""
    return [line[_PREFIX.match(line).end() : _LINE_LIMIT] for line in lines]  # type: ignore[union-attr]


def _matches(source: int, lines: list[str]) -> Iterator[_Match]:
    """What every row finds in these lines, and in the exit codes that they name."""
    bare = _bare(lines)
    raised = _last_raised(bare)
    for number, line in enumerate(bare):
        words = line if _NAMES_A_PATH.search(line) else _PATH.sub(" ", line)
        codes = exit_codes(line)
        for row, (rule, signs) in enumerate(_COMPILED):
            if rule.raised and not _is_last_word(source, number, raised):
                continue
            if signs.search(words):
                text = lines[number].strip()[:_EVIDENCE_LIMIT]
            elif codes & rule.codes:
                text = f"exit code {min(codes & rule.codes)}"
            else:
                continue
            weight = CAUSE if source == 0 and rule.weight == PROGRAM else rule.weight
            yield _Match(weight, source, number, row, text)


def _last_raised(lines: list[str]) -> int | None:
    """The line with the exception of the last traceback, None without a traceback."""
    starts = [n for n, line in enumerate(lines) if _TRACEBACK in line]
    if not starts:
        return None
    for number in range(starts[-1] + 1, len(lines)):
        if lines[number] and not lines[number][0].isspace():
            return number
    return len(lines)


def _is_last_word(source: int, number: int, raised: int | None) -> bool:
    """Whether an exception named in this line may be what ended the program."""
    return number == raised if source == 1 or raised is not None else True
