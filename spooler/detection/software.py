"""The installed packages that matter to a training job, with their versions.

Rules:
- An allow-list under the names the package index uses; other packages are left out.
- A package that is loaded but has no metadata (a source tree) gives the version it states itself.
"""

from __future__ import annotations

from typing import Any

from spooler.detection import amd, installed
from spooler.detection.catalogue import load
from spooler.detection.view import View

PACKAGES = tuple(name for group in load("packages").values() for name in group)

_MODULES = {"flash-attn-3": "flash_attn_interface", "hydra-core": "hydra", "megatron-core": ""}


def look(view: View) -> dict[str, Any]:
    there = installed.look(view)
    versions = {name: there.version(name) or _stated(view, name) for name in PACKAGES}
    packages = {name: version for name, version in versions.items() if version}
    rocm = amd.rocm_version(view)
    return {"packages": packages, **({"rocm_version": rocm} if rocm else {})}


def _stated(view: View, name: str) -> str:
    return view.attribute_text(_MODULES.get(name, name.replace("-", "_")), "__version__")
