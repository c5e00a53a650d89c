"""NVIDIA GPUs and their software, read from files.

Rules:
- ``/proc/driver/nvidia/gpus/*/information`` describes each GPU; without it (some sandboxes hide
  it) the device files are counted and nothing else is known.
- The driver states neither architecture nor memory there. Both are told from the model's name where
  it says so, and left empty where it does not: the management library would have to be asked.
"""

from __future__ import annotations

import json
import re

from spooler.detection import pytorch
from spooler.detection.catalogue import load
from spooler.detection.gpu import Gpu, given
from spooler.detection.view import View

GPUS = "/proc/driver/nvidia/gpus"

ARCHITECTURES: list[list[str]] = load("gpus")["nvidia"]

_MEMORY = re.compile(r"\b(\d{1,4}) ?GB\b")
_DEVICE = re.compile(r"nvidia\d+")


def gpus(view: View) -> list[Gpu]:
    described = [_gpu(view.read(f"{GPUS}/{slot}/information")) for slot in view.names(GPUS)]
    if described:
        return given(view, described)
    return [Gpu(device=f"/dev/{name}") for name in view.names("/dev") if _DEVICE.fullmatch(name)]


def driver_version(view: View) -> str:
    pattern = r"NVRM version:.*?\s(\d+\.\d+(?:\.\d+)?)(?:\s|$)"
    return view.search("/proc/driver/nvidia/version", pattern)


def cuda_version(view: View) -> str:
    """Return the version of CUDA: the toolkit's, else the image's, else torch's."""
    return (
        _toolkit(view.read("/usr/local/cuda/version.json"))
        or view.variable("CUDA_VERSION")
        or pytorch.built_for(view).cuda
    )


def _gpu(information: str) -> Gpu:
    lines = (line.partition(":") for line in information.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    model, minor = fields.get("Model", ""), fields.get("Device Minor", "")
    memory = _MEMORY.search(model.replace("-", " "))
    return Gpu(
        name=model,
        arch=next((arch for model_is, arch in ARCHITECTURES if re.search(model_is, model)), ""),
        memory_gb=float(memory.group(1)) if memory else 0.0,
        device=f"/dev/nvidia{minor}" if minor.isdigit() else "",
    )


def _toolkit(text: str) -> str:
    try:
        version = json.loads(text)["cuda"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return version if isinstance(version, str) else ""
