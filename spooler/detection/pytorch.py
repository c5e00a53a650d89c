"""PyTorch: whether it is there, its version, what it was built for, and what was loaded with it.

Rules:
- Nothing of torch is called. ``torch.cuda.is_available()`` asks the driver, and a process that
  asked the driver can no longer fork safely.
- "CUDA available" (which in PyTorch's language includes ROCm) therefore means: torch was built for
  a GPU, a device file of that kind exists, and the environment does not hide every device; or CUDA
  is already initialised.
- What torch was built for is read from the loaded ``torch.version``, else from its file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from spooler.detection import installed
from spooler.detection.catalogue import load
from spooler.detection.view import View

MODULES: tuple[str, ...] = tuple(load("modules"))

_BUILT_FOR = re.compile(r"^(cuda|hip)\b[^=\n]*=\s*['\"]([^'\"\n]+)['\"]", re.MULTILINE)
_HIDES_ALL = ("-1", "NoDevFiles")


@dataclass(frozen=True, kw_only=True)
class Built:
    """The GPU toolkit versions torch was built with; at most one is not empty."""

    cuda: str
    hip: str


def look(view: View) -> dict[str, Any]:
    there = installed.look(view)
    version = there.version("torch")
    return {
        "available": view.loaded("torch") or bool(version),
        "version": view.attribute_text("torch.version", "__version__")
        or view.attribute_text("torch", "__version__")
        or version,
        "cuda_available": _cuda_available(view),
        "detected_modules": {name: view.loaded(name) for name in MODULES},
    }


def built_for(view: View) -> Built:
    if view.loaded("torch.version"):
        return Built(
            cuda=view.attribute_text("torch.version", "cuda"),
            hip=view.attribute_text("torch.version", "hip"),
        )
    place = installed.look(view).places.get("torch")
    text = view.read(f"{place}/torch/version.py") if place else ""
    found = dict(_BUILT_FOR.findall(text))
    return Built(cuda=found.get("cuda", ""), hip=found.get("hip", ""))


def _cuda_available(view: View) -> bool:
    if view.attributes("torch.cuda").get("_initialized") is True:
        return True
    built = built_for(view)
    if built.hip:
        hiding = ("HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
        return view.exists("/dev/kfd") and not _hidden(view, *hiding)
    present = any(re.fullmatch(r"nvidia\d+", name) for name in view.names("/dev"))
    return bool(built.cuda) and present and not _hidden(view, "CUDA_VISIBLE_DEVICES")


def _hidden(view: View, *names: str) -> bool:
    values = [view.environ[name].strip() for name in names if name in view.environ]
    return any(value == "" or value in _HIDES_ALL for value in values)
