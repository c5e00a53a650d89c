"""The GPUs of the machine, from files alone.

Rules:
- No management library and no vendor program is asked: the first would open the device, the second
  is a program.
- A machine without a GPU says so with a count of zero; what is unknown is left out.
- Of NVIDIA and AMD in one machine NVIDIA is named: the AMD part then is a processor's own graphics.
"""

from __future__ import annotations

from typing import Any

from spooler.detection import amd, nvidia
from spooler.detection.gpu import Gpu
from spooler.detection.view import View


def look(view: View) -> dict[str, Any]:
    """Return count, name, architecture and memory of the GPUs, and the toolkit versions."""
    gpus = nvidia.gpus(view) or amd.gpus(view)
    first = gpus[0] if gpus else Gpu()
    facts: dict[str, Any] = {
        "gpu_arch": first.arch,
        "gpu_memory_gb": round(first.memory_gb, 1),
        "gpu_name": first.name,
        "rocm_version": amd.rocm_version(view),
        "cuda_version": nvidia.cuda_version(view),
    }
    return {"gpu_count": len(gpus), **{name: fact for name, fact in facts.items() if fact}}
