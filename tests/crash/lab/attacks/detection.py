"""Detection among traps: machines, packages, modules and variables of any content.

The seed makes a machine: packages with metadata of any name, files of GPUs with any content,
modules that raise when an attribute is read, and variables of any text. Some files are FIFOs, links
in circles, directories or very large. An audit hook of the interpreter watches the detection. It
must import only the standard library and lens-ship. It must run no program, fork, open no socket,
load no library, open no file of a device, and run nothing of a trapped module. It must find all
that is there.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, Tell
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.spools import PATIENCE_SECONDS

MACHINES = 12
_ALLOWED = frozenset(sys.stdlib_module_names) | {"spooler"}
_FORBIDDEN = (
    "subprocess.",
    "os.posix_spawn",
    "os.exec",
    "os.fork",
    "os.system",
    "os.spawn",
    "pty.",
    "socket.",
    "ctypes.",
    "urllib.",
)
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
_FRAMEWORKS = (
    ("torch", "torch"),
    ("jax", "jax"),
    ("deepspeed", "deepspeed"),
    ("transformers", "transformers"),
    ("lightning", "lightning"),
    ("tensorflow", "tensorflow"),
    ("megatron", "megatron_core"),
    ("primus", "primus"),
    ("triton", "triton"),
)


class AuditHook:
    """What the interpreter was asked to do while it is on; an audit hook cannot be taken off."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.is_on = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event == "import":
            if str(args[0]).partition(".")[0] not in _ALLOWED:
                self.seen.append(f"imports {args[0]}")
        elif event == "open":
            if any(device in str(args[0]) for device in _DEVICES):
                self.seen.append(f"opens {args[0]}")
        elif event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {str(args)[:100]}")


class Trapped(types.ModuleType):
    """A lazy module: reading an attribute makes it import, open a device, or raise."""

    asked: list[str] = []  # noqa: RUF012 - all of them tell in one place

    def __getattribute__(self, name: str) -> Any:
        Trapped.asked.append(f"asks a lazy module for {name}")
        raise RuntimeError(f"the driver was asked for {name}")


class NoModule:
    """An object without a dictionary that claims to be a module."""

    __slots__ = ()

    @property
    def __class__(self) -> Any:
        raise RuntimeError("asked for its class")


def trial(seed: int, work: Path) -> Verdict:
    """Look at `MACHINES` machines in a process with the trap."""
    found = Findings()
    report = work / "report.json"
    child = Child(lambda tell: _look_at_all(seed, work, report, tell))
    child.watch(PATIENCE_SECONDS * 2)
    if not child.has_ended:
        child.kill()
        found.check(False, "G10", f"hangs at machine {child.told[-1:]}")
        return found.verdict()
    found.check(child.end() == 0, "G10", f"died at machine {child.told[-1:]}")
    told = json.loads(report.read_text(encoding="utf-8")) if report.exists() else []
    found.failures += [f"G10: {text}" for text in dict.fromkeys(told)]
    found.faults += len(child.told)
    return found.verdict()


def _look_at_all(seed: int, work: Path, report: Path, tell: Tell) -> None:
    from spooler import detection

    watch, told = AuditHook(), list[str]()
    for number in range(MACHINES):
        rng = random.Random(seed * MACHINES + number)
        machine = _machine(rng, work / f"{number}")
        facts = detection.RunFacts(
            project=_text(rng), name=_text(rng), id="r", config=_config(rng), tags=(_text(rng),)
        )
        tell(number)
        threads = threading.active_count()
        Trapped.asked.clear()
        watch.seen.clear()
        watch.is_on = True
        try:
            detection.imported_frameworks(machine.modules)
            got = detection.collect(facts, machine.environ, machine.modules, machine.files)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it would have hit training
            told.append(f"machine {number}: raises {type(error).__name__}: {error}")
            continue
        finally:
            watch.is_on = False
            told += [f"machine {number}: {text}" for text in watch.seen[:3]]
            told += [f"machine {number}: {text}" for text in Trapped.asked[:3]]
        told += [f"machine {number}: {text}" for text in machine.missed(got)]
        if threading.active_count() != threads:
            told.append(f"machine {number}: starts a thread")
    report.write_text(json.dumps(told), encoding="utf-8")


# --- machines -------------------------------------------------------------------------------------


class _Machine:
    """Files below a directory, modules, variables; and what of it has to be found."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.modules: dict[str, Any] = {}
        self.environ: dict[str, str] = {}
        self.installed: dict[str, str] = {}
        self.imported: list[str] = []
        self.gpus: int | None = None

    def missed(self, got: dict[str, Any]) -> list[str]:
        """What should be found and was not."""
        text = json.dumps(got, allow_nan=False)
        missed = [f"gives {len(text)} bytes"] if len(text) > 2 * 1024 * 1024 else []
        errors = got["evidence"].get("system", {}).get("evidence_errors")
        missed += [f"could not look: {errors}"] if errors else []
        packages = got["evidence"].get("software", {}).get("packages", {})
        for name, version in self.installed.items():
            if packages.get(name) != version:
                missed.append(f"{name} {version} is installed: {packages.get(name)!r}")
        modules = got["evidence"].get("pytorch", {}).get("detected_modules", {})
        missed += [f"{name} is imported" for name in self.imported if not modules.get(name, True)]
        count = got["evidence"].get("hardware", {}).get("gpu_count")
        if self.gpus is not None and count != self.gpus:
            missed.append(f"{self.gpus} GPUs: {count}")
        return missed


def _machine(rng: random.Random, directory: Path) -> _Machine:
    machine = _Machine(directory)
    directory.mkdir()
    _packages(rng, machine)
    _hardware(rng, machine)
    _modules(rng, machine)
    for name in rng.sample(_VARIABLES, k=rng.randrange(len(_VARIABLES))):
        machine.environ[name] = _text(rng)
    for _ in range(rng.choice((0, 3, 2000))):
        machine.environ[f"{rng.choice(('PRIMUS_', 'NEMO_', 'OTHER_'))}{rng.random()}"] = _text(rng)
    return machine


_VARIABLES = (
    *("PRIMUS_CONFIG", "PRIMUS_VERSION", "FRAMEWORK", "DEEPSPEED_CONFIG", "WORLD_SIZE", "RANK"),
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VERSION", "ROCM_VERSION", "IMAGE_TAG"),
    *(
        "GIT_COMMIT",
        "GITHUB_REPOSITORY",
        "GITHUB_SERVER_URL",
        "GITHUB_RUN_ID",
        "PATH",
        "LD_PRELOAD",
    ),
    *("PYTHONPATH", "NCCL_DEBUG", "MASTER_ADDR", "WANDB_API_KEY", "XLA_FLAGS", "BUILD_URL"),
)


def _packages(rng: random.Random, machine: _Machine) -> None:
    path = [f"/site{number}" for number in range(rng.randrange(1, 4))]
    for number, place in enumerate(path):
        site = machine.files / place[1:]
        site.mkdir()
        for _ in range(rng.choice((0, 5, 300))):
            name = _file_name(rng)
            _put(rng, site / name)
        for name, distribution in rng.sample(_FRAMEWORKS, k=rng.randrange(len(_FRAMEWORKS))):
            if number == 0:
                version = f"{rng.randrange(9)}.{rng.randrange(99)}.{rng.randrange(9)}"
                (site / f"{distribution}-{version}.dist-info").mkdir()
                machine.installed[distribution.replace("_", "-")] = version
            package = site / name
            package.mkdir(exist_ok=True)
            (package / "__init__.py").write_text("raise SystemExit('it was imported')")
            _put(rng, package / "version.py")
    told: list[Any] = [*path, "", "relative", "/nowhere", 7, None, "\0", "/etc/passwd"]
    system = types.ModuleType("sys")
    vars(system).update(path=told[: len(path)] + rng.sample(told[len(path) :], k=rng.randrange(6)))
    vars(system).update(argv=rng.choice(([], ["train.py", "--lr=1", _text(rng)], None, [3, None])))
    machine.modules["sys"] = system


def _file_name(rng: random.Random) -> str:
    start = rng.choice(("pkg", "torch", "x" * 200, "ü", "-", ".", " ", "a\nb", "Torch", "numpy"))
    end = rng.choice(
        (".dist-info", "-1.0.dist-info", "-1-py3.11.egg-info", ".py", "", "-.dist-info")
    )
    return f"{start}{rng.randrange(10**6)}{end}"


def _put(rng: random.Random, path: Path) -> None:
    """A file, directory, FIFO, link or nothing, of any content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = rng.choices(
        ("file", "directory", "fifo", "link", "large", "sealed"), (8, 2, 1, 1, 1, 1)
    )[0]
    if os.path.lexists(path):
        return
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(rng.choice((path.name, "..", "/dev/zero", "/nowhere")))
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(2**40)
    else:
        path.write_bytes(_bytes(rng))
        if kind == "sealed":
            path.chmod(0)


def _hardware(rng: random.Random, machine: _Machine) -> None:
    files = machine.files
    if rng.random() < 0.3:  # a machine as NVIDIA describes it, with devices that must stay shut
        machine.gpus = rng.randrange(1, 9)
        for number in range(machine.gpus):
            about = files / f"proc/driver/nvidia/gpus/0000:{number:02x}:00.0/information"
            about.parent.mkdir(parents=True)
            about.write_text(f"Model: \t NVIDIA H100 80GB HBM3\nDevice Minor: \t {number}\n")
            device = files / f"dev/nvidia{number}"
            device.parent.mkdir(exist_ok=True)
            os.mkfifo(device)
    else:
        for place in (
            "proc/driver/nvidia/gpus/0000:01:00.0/information",
            "sys/class/kfd/kfd/topology/nodes/1/properties",
            "sys/class/kfd/kfd/topology/nodes/1/mem_banks/0/properties",
            "sys/class/drm/card0/device/vendor",
            "sys/class/drm/card0/device/mem_info_vram_total",
            "dev/nvidia0",
            "dev/nvidiactl",
            "dev/kfd",
            "dev/dri/renderD128",
        ):
            if rng.random() < 0.7:
                _put(rng, files / place)
    for place in (
        "proc/driver/nvidia/version",
        "proc/meminfo",
        "proc/self/cgroup",
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/cpu.max",
        "etc/os-release",
        "opt/rocm/.info/version",
        "usr/local/cuda/version.json",
    ):
        if rng.random() < 0.7:
            _put(rng, files / place)


def _modules(rng: random.Random, machine: _Machine) -> None:
    for name, _ in rng.sample(_FRAMEWORKS, k=rng.randrange(len(_FRAMEWORKS))):
        for each in (name, f"{name}.version", f"{name}.cuda"):
            machine.modules[each] = rng.choice(_KINDS)(rng, each)
        if machine.modules[name] is not None:
            machine.imported.append(name)
    for name in rng.sample(("numpy", "megatron.core", "ray", "apex", "__main__"), k=3):
        machine.modules[name] = rng.choice(_KINDS)(rng, name)


def _spoken(rng: random.Random, name: str) -> types.ModuleType:
    """A module whose attributes are anything."""
    made = types.ModuleType(name)
    for attribute in ("__version__", "cuda", "hip", "_initialized", "__package__"):
        vars(made)[attribute] = rng.choice((_text(rng), None, 7, NoModule(), b"1", ["2.0"], True))
    return made


_KINDS: tuple[Callable[[random.Random, str], Any], ...] = (
    lambda _, name: Trapped(name),
    _spoken,
    lambda _, __: NoModule(),
    lambda _, __: None,
    lambda _, __: 7,
    lambda _, name: types.SimpleNamespace(__version__=name),
)


def _config(rng: random.Random) -> dict[Any, Any]:
    config: dict[Any, Any] = {_text(rng): _text(rng), 7: NoModule(), "model": Trapped("torch")}
    if rng.random() < 0.3:
        config["itself"] = config
    return config


def _text(rng: random.Random) -> str:
    return rng.choice(
        (
            "",
            "1",
            "-1",
            "8" * 5000,
            "torch",
            "/dev/nvidia0",
            "$(nvidia-smi)",
            "nan",
            "{" * 3000,
            "ü\ud800\0",
            "https://user:secret@host/",
            "a=b;c=d\n" * 200,
            "9" * 10**5,
        )
    )


def _bytes(rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"",
            rng.randbytes(300),
            b"Model: NVIDIA H100\nDevice Minor: ../../etc/passwd\n",
            b"Device Minor: 99999999999999999999\n" * 50,
            b"simd_count 9" + b"9" * 5000 + b"\ngfx_target_version -1\n",
            b'{"cuda": {"version": ' + b"[" * 20000,
            b"0::/" + b"../" * 2000,
            b"MemTotal: " + b"9" * 4000 + b" kB\n",
            b"max",
            b"cuda = '12.4'\nhip = None\n" + b"cuda " * 12000,
            b"\xff\xfe\0" * 20000,
        )
    )


ATTACK = Attack(
    meaning="detection among traps: machines, packages, modules and variables of any content",
    promises=("G10",),
    trial=trial,
    trials=Trials(short=1, usual=8, long=100),
    catches=("imports-installed-frameworks", "runs-nvidia-smi", "reads-module-attributes"),
)
