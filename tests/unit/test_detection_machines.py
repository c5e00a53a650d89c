"""GPUs, limits and PyTorch as the files of NVIDIA, AMD and plain machines describe them."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any

import pytest

from spooler.detection import RunFacts, View, amd, hardware, nvidia, pytorch, system

NOBODY = RunFacts(project="", name="", id="", config={}, tags=())

H100 = """Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 18
GPU UUID: \t GPU-0a1b2c3d
Video BIOS: \t 96.00.74.00.01
Bus Type: \t PCIe
Device Minor: \t {minor}
"""

NVRM = """NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.08  Wed Feb 28 20:00:00 UTC 2024
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
"""

NVRM_OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build"
    "  (dvs-builder@host)  Tue Mar  5 22:15:33 UTC 2024"
)

MI300X = """cpu_cores_count 0
simd_count 1216
mem_banks_count 1
gfx_target_version 90402
vendor_id 4098
device_id 29857
drm_render_minor {minor}
"""

PROCESSOR = "cpu_cores_count 96\nsimd_count 0\ngfx_target_version 0\n"


def put(root: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    return root


def look(root: Path, modules: dict[str, Any] | None = None, **environ: str) -> View:
    return View(run=NOBODY, environ=environ, modules=modules or {}, files=root)


def module(name: str, **attributes: object) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(attributes)
    return made


@pytest.fixture
def nvidia_machine(tmp_path: Path) -> Path:
    slots = {
        f"/proc/driver/nvidia/gpus/0000:{n:02x}:00.0/information": H100.format(minor=n)
        for n in range(8)
    }
    toolkit = json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.4.1"}})
    more = {"/proc/driver/nvidia/version": NVRM, "/usr/local/cuda/version.json": toolkit}
    return put(tmp_path, {**slots, **more, "/dev/nvidiactl": "", "/dev/nvidia-uvm": ""})


@pytest.fixture
def amd_machine(tmp_path: Path) -> Path:
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    files = {f"{nodes}/0/properties": PROCESSOR, f"{nodes}/1/properties": PROCESSOR}
    for n in range(2, 10):
        files[f"{nodes}/{n}/properties"] = MI300X.format(minor=126 + n)
        bank = "heap_type 1\nsize_in_bytes 206141652992\nflags 0\nwidth 8192\n"
        files[f"{nodes}/{n}/mem_banks/0/properties"] = bank
    return put(tmp_path, {**files, "/opt/rocm/.info/version": "6.2.0-66\n", "/dev/kfd": ""})


def test_nvidia_machine(nvidia_machine: Path) -> None:
    assert hardware.look(look(nvidia_machine)) == {
        "gpu_count": 8,
        "gpu_name": "NVIDIA H100 80GB HBM3",
        "gpu_arch": "sm_90",
        "gpu_memory_gb": 80.0,
        "cuda_version": "12.4.1",
    }
    assert system.look(look(nvidia_machine))["nvidia_driver"] == "535.161.08"


def test_nvidia_container_counts_the_gpus_it_was_given(nvidia_machine: Path) -> None:
    put(nvidia_machine, {"/dev/nvidia3": "", "/dev/nvidia5": ""})
    assert hardware.look(look(nvidia_machine))["gpu_count"] == 2


def test_nvidia_device_files_alone_are_counted(tmp_path: Path) -> None:
    put(tmp_path, {"/dev/nvidia0": "", "/dev/nvidia1": "", "/dev/nvidiactl": "", "/dev/null": ""})
    assert hardware.look(look(tmp_path)) == {"gpu_count": 2}


def test_open_nvidia_driver(tmp_path: Path) -> None:
    put(tmp_path, {"/proc/driver/nvidia/version": NVRM_OPEN})
    assert nvidia.driver_version(look(tmp_path)) == "550.54.15"


@pytest.mark.parametrize(
    ("model", "arch", "memory"),
    [
        ("NVIDIA A100-SXM4-80GB", "sm_80", 80.0),
        ("NVIDIA A100-PCIE-40GB", "sm_80", 40.0),
        ("Tesla V100-SXM2-32GB", "sm_70", 32.0),
        ("NVIDIA H200", "sm_90", 0.0),
        ("NVIDIA B200", "sm_100", 0.0),
        ("NVIDIA GB200", "sm_100", 0.0),
        ("NVIDIA L40S", "sm_89", 0.0),
        ("NVIDIA L4", "sm_89", 0.0),
        ("NVIDIA A10G", "sm_86", 0.0),
        ("NVIDIA A10", "sm_86", 0.0),
        ("Tesla T4", "sm_75", 0.0),
        ("NVIDIA GeForce RTX 4090", "sm_89", 0.0),
        ("NVIDIA RTX 6000 Ada Generation", "sm_89", 0.0),
        ("NVIDIA RTX A6000", "sm_86", 0.0),
        ("NVIDIA Something New", "", 0.0),
    ],
)
def test_nvidia_models(tmp_path: Path, model: str, arch: str, memory: float) -> None:
    put(tmp_path, {"/proc/driver/nvidia/gpus/0/information": f"Model: \t {model}\n"})
    (gpu,) = nvidia.gpus(look(tmp_path))
    assert (gpu.name, gpu.arch, gpu.memory_gb) == (model, arch, memory)


def test_amd_machine(amd_machine: Path) -> None:
    assert hardware.look(look(amd_machine)) == {
        "gpu_count": 8,
        "gpu_name": "AMD Instinct MI300X",
        "gpu_arch": "gfx942",
        "gpu_memory_gb": 192.0,
        "rocm_version": "6.2.0-66",
    }


def test_amd_container_counts_the_gpus_it_was_given(amd_machine: Path) -> None:
    put(amd_machine, {"/dev/dri/renderD128": "", "/dev/dri/card0": ""})
    assert hardware.look(look(amd_machine))["gpu_count"] == 1


def test_amd_nodes_of_other_containers_are_absent(amd_machine: Path) -> None:
    (amd_machine / "sys/class/kfd/kfd/topology/nodes/5/properties").unlink()
    assert hardware.look(look(amd_machine))["gpu_count"] == 7


def test_amd_cards_without_the_compute_driver(tmp_path: Path) -> None:
    cards = "/sys/class/drm"
    put(
        tmp_path,
        {
            f"{cards}/card0/device/vendor": "0x1a03\n",
            f"{cards}/card1/device/vendor": "0x1002\n",
            f"{cards}/card1/device/mem_info_vram_total": "68702699520\n",
            f"{cards}/card1/device/product_name": "AMD Instinct MI210\n",
            f"{cards}/card1-DP-1/device/vendor": "0x1002\n",
        },
    )
    found = hardware.look(look(tmp_path))
    assert found == {"gpu_count": 1, "gpu_name": "AMD Instinct MI210", "gpu_memory_gb": 64.0}


@pytest.mark.parametrize(
    ("target", "name"),
    [(90402, "gfx942"), (90010, "gfx90a"), (90500, "gfx950"), (110000, "gfx1100"), (0, "")],
)
def test_amd_architectures(target: int, name: str) -> None:
    assert amd.architecture(target) == name


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    assert hardware.look(look(tmp_path)) == {"gpu_count": 0}


@pytest.mark.parametrize("garbage", ["", "\0\0", "[1]", '{"cuda": 12}', "simd_count", "é" * 70_000])
def test_garbage_in_the_files_is_no_error(tmp_path: Path, garbage: str) -> None:
    places = [
        "/usr/local/cuda/version.json",
        "/proc/driver/nvidia/version",
        "/proc/driver/nvidia/gpus/0/information",
        "/sys/class/kfd/kfd/topology/nodes/0/properties",
        "/sys/class/drm/card0/device/vendor",
        "/proc/meminfo",
        "/proc/self/cgroup",
        "/sys/fs/cgroup/cpu.max",
        "/sys/fs/cgroup/memory.max",
    ]
    put(tmp_path, dict.fromkeys(places, garbage))
    view = look(tmp_path)
    assert hardware.look(view)["gpu_count"] in (0, 1)
    assert "memory_gb" not in system.look(view)


@pytest.mark.parametrize(
    ("files", "memory", "cpus"),
    [
        ({"memory.max": "34359738368", "cpu.max": "1600000 100000"}, 32.0, 16.0),
        ({"memory.max": "max", "cpu.max": "max 100000"}, None, None),
        (
            {
                "memory/memory.limit_in_bytes": "17179869184",
                "cpu/cpu.cfs_quota_us": "250000",
                "cpu/cpu.cfs_period_us": "100000",
            },
            16.0,
            2.5,
        ),
        (
            {"memory/memory.limit_in_bytes": "9223372036854771712", "cpu/cpu.cfs_quota_us": "-1"},
            None,
            None,
        ),
    ],
)
def test_control_group_limits(
    tmp_path: Path, files: dict[str, str], memory: float | None, cpus: float | None
) -> None:
    put(tmp_path, {f"/sys/fs/cgroup/{name}": text for name, text in files.items()})
    found = system.look(look(tmp_path))
    assert (found.get("memory_limit_gb"), found.get("cpu_limit")) == (memory, cpus)


def test_own_control_group_comes_first(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "/proc/self/cgroup": "0::/job\n",
            "/sys/fs/cgroup/job/memory.max": "1073741824",
            "/sys/fs/cgroup/memory.max": "max",
        },
    )
    assert system.look(look(tmp_path))["memory_limit_gb"] == 1.0


def test_the_command_line_tells_no_values(tmp_path: Path) -> None:
    argv = ["/job/train.py", "--lr", "0.1", "--api-key=hunter2", "hunter2", "-p", "--x y", "--lr"]
    modules = {"sys": module("sys", argv=argv, executable="/usr/bin/python3")}
    found = system.look(look(tmp_path, modules))
    assert found["script"] == "train.py"
    assert found["options"] == ["lr", "api-key"]
    assert "hunter2" not in json.dumps(found)


TORCH_CUDA = {"torch.version": module("torch.version", cuda="12.1", hip=None)}
TORCH_HIP = {"torch.version": module("torch.version", cuda=None, hip="6.2.41133")}


@pytest.mark.parametrize(
    ("modules", "devices", "environ", "available"),
    [
        (TORCH_CUDA, ["/dev/nvidia0"], {}, True),
        (TORCH_CUDA, ["/dev/nvidia6"], {}, True),
        (TORCH_CUDA, ["/dev/nvidiactl"], {}, False),
        (TORCH_CUDA, ["/dev/kfd"], {}, False),
        (TORCH_CUDA, ["/dev/nvidia0"], {"CUDA_VISIBLE_DEVICES": ""}, False),
        (TORCH_CUDA, ["/dev/nvidia0"], {"CUDA_VISIBLE_DEVICES": "0"}, True),
        (TORCH_HIP, ["/dev/kfd"], {}, True),
        (TORCH_HIP, ["/dev/kfd"], {"HIP_VISIBLE_DEVICES": "-1"}, False),
        (TORCH_HIP, ["/dev/nvidia0"], {}, False),
        ({"torch.cuda": module("torch.cuda", _initialized=True)}, [], {}, True),
        ({}, ["/dev/nvidia0", "/dev/kfd"], {}, False),
    ],
)
def test_cuda_available_without_asking_the_driver(
    tmp_path: Path,
    modules: dict[str, Any],
    devices: list[str],
    environ: dict[str, str],
    available: bool,
) -> None:
    put(tmp_path, dict.fromkeys(devices, ""))
    found = pytorch.look(look(tmp_path, modules, **environ))
    assert found["cuda_available"] is available


def test_torch_that_is_installed_but_not_imported(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "/site/torch-2.4.0+rocm6.1.dist-info/METADATA": "",
            "/site/torch/version.py": "cuda: Optional[str] = None\nhip: Optional[str] = '6.1.4'\n",
            "/dev/kfd": "",
        },
    )
    view = look(tmp_path, {"sys": module("sys", path=["/site"])})
    found = pytorch.look(view)
    assert (found["available"], found["version"]) == (True, "2.4.0+rocm6.1")
    assert found["cuda_available"] is True
    assert amd.rocm_version(view) == "6.1.4"


class Surly:
    """An attribute that raises when it is asked for its class."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("asked")


@pytest.mark.promise("G10")
def test_an_attribute_that_lies_about_its_class_is_no_text(tmp_path: Path) -> None:
    modules = {
        "torch": module("torch", __version__=Surly()),
        "sys": module("sys", path=[Surly(), "/site"], argv=[Surly(), "--lr"]),
        "__main__": module("__main__", __package__=Surly()),
    }
    (tmp_path / "site" / "torch-2.3.0.dist-info").mkdir(parents=True)
    assert pytorch.look(look(tmp_path, modules))["version"] == "2.3.0"
    assert system.look(look(tmp_path, modules))["script"] == "--lr"


@pytest.mark.promise("G10")
def test_a_toolkit_that_is_nested_too_deep_costs_its_version_alone(nvidia_machine: Path) -> None:
    put(nvidia_machine, {"/usr/local/cuda/version.json": '{"cuda": ' + "[" * 50_000})
    facts = hardware.look(look(nvidia_machine))
    assert facts["gpu_count"] == 8
    assert "cuda_version" not in facts
