"""The rule table: what real failures say, and what is decided about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from spooler.diagnosis.action import DiagnosisActionType
from spooler.diagnosis.failures import describe, exit_codes
from spooler.diagnosis.hang import HangWatch
from spooler.diagnosis.rules import RULES, decide

FAILURES = {
    "gpu-lost": [
        "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus.",
        "NVRM: Xid (PCI:0000:07:00): 48, pid='<unknown>', name=<unknown>, DBE (double bit error)",
        "RuntimeError: HIP error: hipErrorNoDevice",
        "RuntimeError: No CUDA GPUs are available",
        "CUDA error: uncorrectable ECC error encountered",
        "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
    ],
    "node-lost": [
        "node is lost: heartbeat missing",
        "The instance was preempted by the scheduler",
        "OSError: [Errno 28] No space left on device: 'checkpoint.pt'",
        "OSError: [Errno 116] Stale file handle",
    ],
    "host-memory": [
        "Out of memory: Killed process 4711 (python) total-vm:812",
        "reason: OOMKilled",
        "MemoryError",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: can't allocate",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
    "gpu-memory": [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "torch.cuda.OutOfMemoryError: HIP out of memory. Tried to allocate 20.00 MiB",
        "RuntimeError: CUDA error: out of memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
    "collective": [
        "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2006, unhandled",
        "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=118, OpType=ALLRED",
        "RCCL WARN Call to connect failed: timed out",
        "ncclSystemError: System call (e.g. socket, malloc) or external library call failed",
        "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.7]:2000",
    ],
    "gpu-error": [
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "RuntimeError: CUDA error: device-side assert triggered",
        "RuntimeError: HIP error: unspecified launch failure",
        "Memory access fault by GPU node-2 (Agent handle: 0x55) on address 0x7f.",
        "NVRM: Xid (PCI:0000:3b:00): 31, pid=99, Ch 00000008, MMU Fault",
    ],
    "wrong-build": ["RuntimeError: HIP error: hipErrorNoBinaryForGpu"],
    "crash": ["Fatal Python error: Segmentation fault"],
    "denied": ["PermissionError: [Errno 13] Permission denied: '/data/out'"],
    "hang": ["training hang detected", "no step for 300 s"],
    "user-error": [
        "ModuleNotFoundError: No module named 'flash_attn'",
        "No module named 'flash_attn'",
        '  File "train.py", line 3\nSyntaxError: invalid syntax',
        "NameError: name 'modle' is not defined",
        "[Errno 2] No such file or directory: 'config.yaml'",
        "FileNotFoundError: data/train.bin",
        "train.py: error: unrecognized arguments: --lr",
    ],
}


@pytest.mark.parametrize(("rule", "text"), [(r, t) for r, texts in FAILURES.items() for t in texts])
def test_a_failure_is_recognised_by_what_it_says(rule: str, text: str) -> None:
    decided = decide(describe({"error": text}), "", 0, 3)
    row = next(row for row in RULES if row.name == rule)
    assert (decided.rule, decided.action_type) == (rule, row.action)
    assert decided.evidence in f"error: {text}"
    assert decided.seen_in == "failures"


def test_every_row_of_the_table_is_tried_here() -> None:
    assert set(FAILURES) == {row.name for row in RULES}


@pytest.mark.parametrize(
    ("rule", "action"),
    [
        ("gpu-memory", "RELAUNCH_WORKER"),
        ("gpu-lost", "RELAUNCH_WORKER"),
        ("user-error", "JOB_ABORT"),
    ],
)
def test_when_the_restarts_are_used_up_the_node_is_given_up_and_an_error_stays_one(
    rule: str, action: str
) -> None:
    decided = decide(FAILURES[rule][0], "", 3, 3)
    assert decided.action_type.name == action
    assert ("3 of 3 restarts" in decided.reason) == (rule == "gpu-memory")


def test_what_the_program_reports_counts_before_its_log() -> None:
    log = "CUDA out of memory"
    decided = decide("error: device-side assert", log, 0, 3)
    assert (decided.rule, decided.seen_in) == ("gpu-error", "failures")
    decided = decide("error: worker failed", log, 0, 3)
    assert (decided.rule, decided.seen_in) == ("gpu-memory", "log")


def test_of_a_log_only_the_end_counts() -> None:
    old = "ImportError: no fused kernels, using slow ones\n"
    later = "".join(f"step {n}\n" for n in range(100))
    assert decide("error: x", old + later, 0, 3).rule == "unknown"
    trace = "Traceback (most recent call last):\n  File\n"
    assert decide("error: x", old + trace + "RuntimeError: NCCL error", 0, 3).rule == "collective"


def test_an_unknown_failure_is_worth_a_restart_and_none_nothing() -> None:
    decided = decide(describe({"error": ""}), "", 0, 3)
    assert (decided.rule, decided.action_type.name) == ("unknown", "RESTART_WORKER")
    assert decide(describe({}), "all is well\n", 0, 3).action_type is DiagnosisActionType.NONE
    assert decide(describe(None), "", 9, 3).action_type.value == "no_action"


@dataclass
class Died:
    """As launchers describe a dead process."""

    exitcode: int
    message: str = ""


@pytest.mark.parametrize(
    ("failures", "rule"),
    [
        ({"exitcode": 137}, "host-memory"),
        ({0: {"exit_code": -9}}, "host-memory"),
        ({3: Died(exitcode=-9)}, "host-memory"),
        ({"error": "worker 3 exited with exit code 137"}, "host-memory"),
        ({"error": "exit status 127"}, "user-error"),
        ([{"code": 137}], "unknown"),
        ({"loss": 137}, "unknown"),
        (Died(exitcode=1, message="CUDA out of memory"), "gpu-memory"),
        (MemoryError(), "host-memory"),
        (ImportError("no such thing"), "user-error"),
        ("NCCL error", "collective"),
        (b"NCCL error \xff", "collective"),
    ],
)
def test_failures_may_be_anything_that_says_something(failures: Any, rule: str) -> None:
    assert decide(describe(failures), "", 0, 3).rule == rule


def test_describing_is_bounded_and_survives_what_raises() -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError

    class Worse(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError

    assert describe(Worse()) == "Worse, which raises RuntimeError"
    deep: list[Any] = []
    deep.append(deep)
    assert "<Bad>" in describe({"a": Bad()})
    assert describe(deep)
    assert len(describe({"a": "x" * 10**6})) <= 64 * 1024


def test_signals_count_as_exit_codes() -> None:
    assert exit_codes("0.exitcode: -11\nreturn code 3") == {139, 3}


# --- hangs ----------------------------------------------------------------------------------------


def test_a_hang_is_told_once_and_again_after_progress() -> None:
    watch = HangWatch(300.0)
    assert watch.look(0, 0.0) is None
    assert watch.look(0, 10_000.0) is None, "before the first step, nobody knows"
    assert watch.look(1, 10_001.0) is None
    assert watch.look(1, 10_300.9) is None
    assert watch.look(1, 10_301.0) == 300.0
    assert watch.look(1, 20_000.0) is None
    assert watch.look(2, 20_001.0) is None
    assert watch.look(2, 20_400.0) == pytest.approx(399.0)


def test_a_watch_of_no_seconds_never_tells() -> None:
    watch = HangWatch(0.0)
    assert [watch.look(1, now) for now in (0.0, 1e9)] == [None, None]
