"""What real failures print, and the action that an operator would choose for each.

`F` is what a program or launcher passes as `failures`, `L` the end of the log while `failures` only
says that the worker failed.
"""

from __future__ import annotations

import time

import pytest

from spooler.diagnosis.failures import describe
from spooler.diagnosis.rules import RULES, decide

RESTART, RELAUNCH, ABORT = "RESTART_WORKER", "RELAUNCH_WORKER", "JOB_ABORT"
TRACE = 'Traceback (most recent call last):\n  File "train.py", line 7, in main\n    step()\n'

TABLE = [
    # --- GPUs that are lost or broken ----------------------------------------------------------
    ("L", RELAUNCH, "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, GPU has fallen off the bus."),
    ("L", RELAUNCH, "NVRM: Xid (PCI:0000:07:00): 48, pid='<unknown>', DBE (double bit error)"),
    ("L", RELAUNCH, "NVRM: Xid (PCI:0000:07:00): 94, Contained: CE User Channel (0x9). RST: No"),
    ("L", RELAUNCH, "NVRM: Xid (PCI:0000:07:00): 95, Uncontained: LTC TAG. RST: Yes, D-RST: No"),
    ("L", RELAUNCH, "NVRM: Xid (PCI:0000:9d:00): 119, Timeout waiting for RPC from GSP1!"),
    ("L", RELAUNCH, "NVRM: Xid (PCI:0000:9d:00): 74, pid=88, NVLink: fatal error detected on link"),
    ("L", RELAUNCH, "kernel: NVRM: Xid (PCI:0000:9d:00): 63, pid=88, Row Remapper: New row marked"),
    ("F", RELAUNCH, "Xid 79 on GPU 3"),
    ("F", RELAUNCH, "CUDA error: uncorrectable ECC error encountered"),
    (
        "F",
        RELAUNCH,
        "RuntimeError: CUDA error: uncorrectable NVLink error, cudaErrorECCUncorrectable",
    ),
    ("F", RELAUNCH, "RuntimeError: HIP error: hipErrorNoDevice"),
    ("F", RELAUNCH, "RuntimeError: No HIP GPUs are available"),
    ("F", RELAUNCH, "RuntimeError: No CUDA GPUs are available"),
    ("F", RELAUNCH, "CUDA error: no CUDA-capable device is detected"),
    ("F", RELAUNCH, "RuntimeError: CUDA driver initialization failed, you might not have a GPU"),
    ("F", RELAUNCH, "ImportError: libcuda.so.1: cannot open shared object file: No such file"),
    ("F", RELAUNCH, "OSError: libamdhip64.so.6: cannot open shared object file: No such file"),
    ("F", RELAUNCH, "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost."),
    ("L", RELAUNCH, "amdgpu 0000:c1:00.0: amdgpu: 1 uncorrectable hardware errors detected in umc"),
    ("L", RELAUNCH, "amdgpu: uncorrectable hardware error(ERREVENT_ATHUB_INTERRUPT) detected!"),
    ("L", RELAUNCH, "amdgpu 0000:05:00.0: amdgpu: 12 new uncorrectable errors in block gfx"),
    ("L", RELAUNCH, "[drm] amdgpu 0000:05:00.0: GPU reset(2) failed"),
    ("L", RELAUNCH, "amdgpu 0000:05:00.0: amdgpu: device lost from bus!"),
    ("L", RELAUNCH, "mce: [Hardware Error]: Machine check events logged"),
    ("L", RELAUNCH, "{1}[Hardware Error]: event severity: fatal"),
    ("L", RELAUNCH, "EDAC MC0: 1 UE memory read error on CPU_SrcID#0_MC#0_Chan#1_DIMM#0"),
    ("F", RELAUNCH, "NVRM: RmInitAdapter failed! (0x26:0xffff:1265)"),
    (
        "F",
        RELAUNCH,
        (
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not"
            " yet initialized"
        ),
    ),
    ("F", RELAUNCH, "CUDA error: all CUDA-capable devices are busy, cudaErrorDevicesUnavailable"),
    # --- nodes that are lost or leave ----------------------------------------------------------
    ("F", RELAUNCH, "node is lost: heartbeat missing"),
    ("F", RELAUNCH, "node gpu-a17 is not ready"),
    ("F", RELAUNCH, "Node gpu-a17 status is now NotReady"),
    ("F", RELAUNCH, "NodeNotReady: Node is not ready"),
    ("L", RELAUNCH, "The instance was preempted by the scheduler"),
    ("L", RELAUNCH, "slurmstepd: error: *** JOB 91 ON n17 CANCELLED AT 2026 DUE TO PREEMPTION ***"),
    (
        "L",
        RELAUNCH,
        "slurmstepd: error: *** JOB 91 ON n17 CANCELLED AT 2026 DUE TO NODE FAILURE ***",
    ),
    ("L", RELAUNCH, "srun: error: Node failure on n17"),
    ("F", RELAUNCH, "job state: NODE_FAIL"),
    ("F", RELAUNCH, "job state: PREEMPTED"),
    ("F", RELAUNCH, "pod train-worker-3 was preempted by a pod with higher priority"),
    ("F", RELAUNCH, "reason: Evicted, message: The node was low on resource: memory."),
    ("F", RELAUNCH, "The node was low on resource: ephemeral-storage."),
    ("F", RELAUNCH, "TaintManagerEviction: Marking for deletion Pod train/worker-3"),
    ("F", RELAUNCH, "Spot instance interruption notice received"),
    ("F", RELAUNCH, "spot VM was reclaimed by the provider"),
    ("F", RELAUNCH, "instance i-0abc is scheduled for termination"),
    ("F", RELAUNCH, "NodeShutdown: Pod was rejected as the node is shutting down."),
    ("F", RELAUNCH, "OSError: [Errno 28] No space left on device: 'checkpoint.pt'"),
    ("F", RELAUNCH, "OSError: [Errno 30] Read-only file system: '/var/cache/a'"),
    ("F", RELAUNCH, "OSError: [Errno 5] Input/output error"),
    ("F", RELAUNCH, "OSError: [Errno 116] Stale file handle"),
    ("F", RELAUNCH, "OSError: [Errno 107] Transport endpoint is not connected: '/mnt/gcs'"),
    # --- memory of the node --------------------------------------------------------------------
    ("L", RELAUNCH, "Out of memory: Killed process 4711 (python) total-vm:812kB"),
    ("L", RELAUNCH, "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),task=python,pid=4711"),
    ("L", RELAUNCH, "Memory cgroup out of memory: Killed process 12 (python)"),
    ("L", RELAUNCH, "slurmstepd: error: Detected 1 oom-kill event(s) in step 91.0 cgroup."),
    ("L", RELAUNCH, "slurmstepd: error: Detected 2 oom_kill events in StepId=91.0."),
    ("L", RELAUNCH, "srun: error: n17: task 3: Out Of Memory"),
    ("F", RELAUNCH, "reason: OOMKilled"),
    ("F", RELAUNCH, "job state: OUT_OF_MEMORY"),
    ("F", RELAUNCH, "MemoryError"),
    ("F", RELAUNCH, "numpy.core._exceptions.MemoryError: Unable to allocate 93.1 GiB"),
    ("F", RELAUNCH, "OSError: [Errno 12] Cannot allocate memory"),
    ("F", RELAUNCH, "terminate called after throwing an instance of 'std::bad_alloc'"),
    ("F", RELAUNCH, "RuntimeError: [enforce fail at alloc_cpu.cpp:83] DefaultCPUAllocator: can't"),
    (
        "F",
        RELAUNCH,
        "RuntimeError: unable to open shared memory object: insufficient shared memory",
    ),
    # --- SIGKILL, as text and as a code --------------------------------------------------------
    ("F", RELAUNCH, {"exitcode": -9}),
    ("F", RELAUNCH, {"exit_code": 137}),
    ("F", RELAUNCH, {0: {"returncode": -9}}),
    ("F", RELAUNCH, "worker 3 exited with exit code 137"),
    ("F", RELAUNCH, "Signal 9 (SIGKILL) received by PID 4711"),
    ("L", RELAUNCH, "  exitcode  : -9 (pid: 4711)"),
    ("L", RELAUNCH, "  traceback : Signal 9 (SIGKILL) received by PID 4711"),
    ("L", RELAUNCH, "RuntimeError: DataLoader worker (pid 88) is killed by signal: Killed. "),
    (
        "L",
        RELAUNCH,
        "mpirun noticed that process rank 3 with PID 4711 exited on signal 9 (Killed).",
    ),
    ("L", RELAUNCH, "srun: error: n17: task 3: Killed"),
    ("L", RELAUNCH, "run.sh: line 7:  4711 Killed"),
    ("F", RELAUNCH, "container terminated, exit status 137"),
    # --- builds that fit no device -------------------------------------------------------------
    ("F", ABORT, "RuntimeError: HIP error: hipErrorNoBinaryForGpu: Unable to find code object"),
    ("L", ABORT, "hipErrorNoBinaryForGpu: Unable to find code object for all current devices!"),
    (
        "F",
        ABORT,
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
    ),
    ("L", ABORT, TRACE + "RuntimeError: CUDA error: no kernel image is available for execution"),
    ("F", ABORT, "RuntimeError: HIP error: invalid device function"),
    ("F", ABORT, "cudaErrorNoKernelImageForDevice"),
    # --- memory of the GPU ---------------------------------------------------------------------
    ("F", RESTART, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
    ("F", RESTART, "torch.cuda.OutOfMemoryError: HIP out of memory. Tried to allocate 20.00 MiB"),
    ("F", RESTART, "RuntimeError: CUDA error: out of memory"),
    (
        "F",
        RESTART,
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
    ),
    ("F", RESTART, "RuntimeError: HIP error: hipErrorOutOfMemory"),
    (
        "L",
        RESTART,
        TRACE + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    ),
    ("F", RESTART, "jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while"),
    # --- errors of the GPU that a fresh process does not have ----------------------------------
    ("F", RESTART, "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ("F", RESTART, "RuntimeError: CUDA error: device-side assert triggered"),
    ("F", RESTART, "RuntimeError: CUDA error: unspecified launch failure"),
    ("F", RESTART, "RuntimeError: HIP error: unspecified launch failure"),
    ("F", RESTART, "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ("F", RESTART, "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling gemm"),
    ("F", RESTART, "MIOpen Error: MIOPEN_STATUS_INTERNAL_ERROR"),
    (
        "L",
        RESTART,
        "Memory access fault by GPU node-2 (Agent handle: 0x55) on address 0x7f. Reason",
    ),
    ("L", RESTART, "HW Exception by GPU node-3 (Agent handle: 0x5) reason :GPU Hang"),
    ("L", RESTART, "amdgpu 0000:05:00.0: amdgpu: ring gfx_0.0.0 timeout, signaled seq=48, emitted"),
    ("L", RESTART, "NVRM: Xid (PCI:0000:3b:00): 31, pid=48, Ch 00000008, MMU Fault"),
    ("L", RESTART, "NVRM: Xid (PCI:0000:3b:00): 13, pid=79, Graphics SM Warp Exception"),
    ("L", RESTART, "NVRM: Xid (PCI:0000:3b:00): 43, pid=94, Ch 00000010"),
    ("F", RESTART, "HSA_STATUS_ERROR_OUT_OF_RESOURCES: The runtime failed to allocate"),
    # --- crashes of native code ----------------------------------------------------------------
    ("L", RESTART, "terminate called after throwing an instance of 'c10::Error'"),
    ("L", RESTART, "Fatal Python error: Segmentation fault"),
    ("F", RESTART, "Signal 11 (SIGSEGV) received by PID 9"),
    ("F", RESTART, {"exitcode": -11}),
    ("F", RESTART, {"exitcode": -6}),
    ("F", RESTART, "exit code 139"),
    ("L", RESTART, "double free or corruption (!prev)"),
    ("L", RESTART, "run.sh: line 7: 4711 Aborted                 (core dumped)"),
    ("L", RESTART, "DataLoader worker (pid 88) is killed by signal: Bus error. "),
    # --- the program is wrong ------------------------------------------------------------------
    ("F", ABORT, "ModuleNotFoundError: No module named 'flash_attn'"),
    ("F", ABORT, "No module named 'flash_attn'"),
    ("F", ABORT, "ImportError: cannot import name 'foo' from 'bar'"),
    ("F", ABORT, "NameError: name 'modle' is not defined"),
    ("F", ABORT, "SyntaxError: invalid syntax"),
    ("F", ABORT, "IndentationError: unexpected indent"),
    ("F", ABORT, "[Errno 2] No such file or directory: 'config.yaml'"),
    ("F", ABORT, "FileNotFoundError: data/train.bin"),
    ("F", ABORT, "IsADirectoryError: [Errno 21] Is a directory: 'out'"),
    ("F", ABORT, ImportError("libfoo missing")),
    ("F", ABORT, FileNotFoundError(2, "No such file or directory", "a.yaml")),
    ("F", ABORT, {"exitcode": 127}),
    ("F", ABORT, "exit status 126"),
    ("F", ABORT, "train.py: error: unrecognized arguments: --lr"),
    ("F", ABORT, "train.py: error: the following arguments are required: --data"),
    ("F", ABORT, "train.py: error: argument --lr: invalid float value: 'x'"),
    ("F", ABORT, "train.py: error: argument --mode: invalid choice: 'x' (choose from 'a', 'b')"),
    ("F", ABORT, "python: can't open file '/job/train.py': [Errno 2] No such file or directory"),
    ("F", ABORT, "/opt/venv/bin/python3: No module named trainer"),
    ("F", ABORT, "bash: line 1: torchrun: command not found"),
    ("L", ABORT, TRACE + "ModuleNotFoundError: No module named 'flash_attn'"),
    ("L", ABORT, TRACE + "FileNotFoundError: [Errno 2] No such file or directory: '/data/x.bin'"),
    (
        "L",
        ABORT,
        "[rank0]: " + TRACE.replace("\n", "\n[rank0]: ") + "NameError: name 'x' is not defined",
    ),
    ("L", ABORT, "usage: train.py [-h]\ntrain.py: error: unrecognized arguments: --lr"),
    ("L", ABORT, "train.py: error: argument --tp: invalid int value: 'two'"),
    ("L", ABORT, "bash: line 1: torchrun: command not found"),
    ("L", ABORT, "python3: can't open file '/job/train.py': [Errno 2] No such file or directory"),
    (
        "L",
        ABORT,
        TRACE + "ImportError: cannot import name 'Trainer'\n" + "closing signal SIGTERM\n" * 5,
    ),
    # --- permissions, credentials and quotas ---------------------------------------------------
    ("F", ABORT, "PermissionError: [Errno 13] Permission denied: '/data/out'"),
    ("F", ABORT, "[Errno 13] Permission denied: '/data/out'"),
    ("F", ABORT, "OSError: [Errno 122] Disk quota exceeded"),
    ("F", ABORT, "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: x"),
    ("F", ABORT, "huggingface_hub.errors.GatedRepoError: 403 Client Error."),
    ("F", ABORT, "botocore.exceptions.ClientError: An error occurred (AccessDenied)"),
    ("L", ABORT, TRACE + "PermissionError: [Errno 13] Permission denied: '/data/out'"),
    ("L", ABORT, TRACE + "OSError: [Errno 122] Disk quota exceeded: 'ckpt.pt'"),
    # --- collectives ---------------------------------------------------------------------------
    ("F", RESTART, "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:2006"),
    ("L", RESTART, "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=118)"),
    ("L", RESTART, "RCCL WARN Call to connect failed: timed out"),
    ("F", RESTART, "ncclSystemError: System call (e.g. socket, malloc) or external library failed"),
    ("F", RESTART, "RuntimeError: [gloo/transport/tcp/pair.cc:553] Connection closed by peer"),
    ("F", RESTART, "torch.distributed.DistNetworkError: The client socket has timed out after 60s"),
    ("F", RESTART, "torch.distributed.elastic.rendezvous.api.RendezvousTimeoutError"),
    ("F", RESTART, "ConnectionRefusedError: [Errno 111] Connection refused"),
    ("F", RESTART, "BrokenPipeError: [Errno 32] Broken pipe"),
    # --- hangs and what no rule knows ----------------------------------------------------------
    ("F", RESTART, "training hang detected"),
    ("F", RESTART, "no step for 300 s"),
    ("F", RESTART, "ValueError: loss is NaN"),
    ("F", RESTART, "KeyError: 'input_ids'"),
    ("F", RESTART, {"exitcode": 1}),
    ("F", RESTART, {"exitcode": -15}),
    ("F", RESTART, "AssertionError"),
    ("F", RESTART, "RuntimeError: Expected all tensors to be on the same device"),
    # --- which evidence counts -----------------------------------------------------------------
    # A word in a path or a module's name is no evidence.
    ("F", RESTART, "ValueError: bad row in /data/preemption/evicted/x.bin"),
    ("F", RESTART, "ValueError: bad row in /data/pod/evicted/preempted by/x"),
    ("L", RESTART, "loading /models/oom_kill/weights and /mnt/SIGKILL/y"),
    ("F", RESTART, "ValueError: cannot parse s3://bucket/401 Unauthorized/x"),
    ("L", RESTART, "loaded plugin preemption_handler"),
    ("L", RESTART, "PreemptionHandler installed, preemption checks every 10 s"),
    # A number that is no code of the driver.
    ("L", RESTART, "NVRM: Xid (PCI:0000:48:00): 31, pid=79, Ch 00000008"),
    ("L", RESTART, "amdgpu: 0 uncorrectable hardware errors detected\nValueError: x"),
    # A file that a cleaning script does not find is not the program's error.
    (
        "L",
        RESTART,
        (
            "rm: cannot remove '/tmp/x': No such file or directory\n"
            "terminate called after throwing an instance of 'c10::Error'"
        ),
    ),
    ("L", RESTART, "ls: cannot access '/data/x': No such file or directory"),
    # An exception that was caught is not the end.
    ("L", RESTART, TRACE + "ImportError: no fused kernels\nusing slow ones\nSegmentation fault"),
    ("L", RESTART, "ImportError: no fused kernels, using slow ones"),
    ("L", RESTART, "WARNING: FileNotFoundError while reading cache, rebuilding"),
    ("L", RESTART, TRACE + "FileNotFoundError: cache\n" + TRACE + "RuntimeError: NCCL error"),
    ("L", RESTART, TRACE + "ModuleNotFoundError: x\n" + "step 1\n" * 120),
    ("L", RELAUNCH, TRACE + "PermissionError: x\nNVRM: Xid (PCI:0000:3b:00): 79, GPU lost"),
    # The first process that failed is the cause; the others only report it.
    (
        "L",
        RESTART,
        (
            "[rank3]: torch.OutOfMemoryError: CUDA out of memory.\n"
            "[rank0]: DistBackendError: NCCL error, remote process exited"
        ),
    ),
    (
        "L",
        RELAUNCH,
        (
            "[rank0]: NCCL WARN Connection closed by peer\n"
            "NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus."
        ),
    ),
    ("L", RELAUNCH, "[rank3]: MemoryError\n[rank0]: RuntimeError: CUDA error: unknown error"),
    ("L", RESTART, "[rank3]: CUDA error: device-side assert triggered\n[rank0]: MemoryError"),
    (
        "L",
        ABORT,
        TRACE + "FileNotFoundError: data.bin\nW0101 Sending process 9 closing signal SIGTERM"
        "\nE0101 failed (exitcode: 1) local_rank: 0 (pid: 8) of binary: /usr/bin/python3",
    ),
    ("L", RELAUNCH, "[rank7]: Broken pipe\n  exitcode  : -9 (pid: 4711)"),
]

# The launcher's own message, and what the log says of the first failure.
SECONDARY = [
    ({"exitcode": -15}, "torch.OutOfMemoryError: CUDA out of memory.", RESTART, "gpu-memory"),
    ({"exitcode": -9}, "RuntimeError: CUDA error: device-side assert", RESTART, "gpu-error"),
    ({"exitcode": -9}, "hipErrorNoBinaryForGpu", ABORT, "wrong-build"),
    ({"exitcode": -9}, TRACE + "FileNotFoundError: x", RELAUNCH, "host-memory"),
    ({"exitcode": 1}, TRACE + "FileNotFoundError: x", ABORT, "user-error"),
    ("NCCL error", "CUDA out of memory", RESTART, "gpu-memory"),
    ("Connection closed by peer", "GPU has fallen off the bus", RELAUNCH, "gpu-lost"),
    ("CUDA out of memory", "GPU has fallen off the bus", RELAUNCH, "gpu-lost"),
    ("ImportError: x", "CUDA out of memory", ABORT, "user-error"),
]


def action(where: str, what: object) -> str:
    given, log = (what, "") if where == "F" else ("the worker failed", str(what))
    failures = given if not isinstance(given, str) else {"error": given}
    return decide(describe(failures), log, 0, 3).action_type.name


@pytest.mark.parametrize(("where", "expected", "what"), TABLE)
def test_the_action_is_the_one_that_an_operator_would_choose(
    where: str, expected: str, what: object
) -> None:
    assert action(where, what) == expected


@pytest.mark.parametrize(("failures", "log", "expected", "rule"), SECONDARY)
def test_what_a_launcher_does_to_the_others_does_not_hide_the_cause(
    failures: object, log: str, expected: str, rule: str
) -> None:
    given = failures if not isinstance(failures, str) else {"error": failures}
    decided = decide(describe(given), log, 0, 3)
    assert (decided.action_type.name, decided.rule) == (expected, rule)


def test_a_sigkill_means_the_same_as_text_as_code_and_in_the_log() -> None:
    ways = [({"exitcode": -9}, ""), ("Signal 9 (SIGKILL) received", ""), ("x", "exitcode : -9")]
    rules = {decide(describe({"error": given}), log, 0, 3).rule for given, log in ways}
    assert rules == {"host-memory"}


def test_the_table_is_large_and_tries_every_rule() -> None:
    assert len(TABLE) >= 150
    tried = {
        decide(describe({"error": w} if isinstance(w, str) else w), "", 0, 3).rule
        for where, _, w in TABLE
        if where == "F"
    }
    assert {rule.name for rule in RULES} <= tried


@pytest.mark.parametrize(
    "piece",
    ["amdgpu ", "RCCL ", "a/", "Xid (", "[Hardware Error]: ", "node ", "spot ", "exit ", "Error: "],
)
def test_the_time_of_a_decision_grows_with_the_text_and_not_with_its_square(piece: str) -> None:
    def best(size: int) -> float:
        text = (piece * size)[:size]
        times = []
        for _ in range(5):
            begin = time.process_time()
            decide(text, text, 0, 3)
            times.append(time.process_time() - begin)
        return min(times)

    best(1000)
    assert best(64 * 1024) < 8 * best(16 * 1024) + 0.01
