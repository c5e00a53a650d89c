"""AMD GPUs and their software, read from files.

Rules:
- The topology of the compute driver (KFD) describes each GPU: a node with SIMD units is one, a node
  without is a processor. Nodes of other containers cannot be read and count as absent.
- Without KFD, the graphics cards of vendor 0x1002 are counted, whose architecture is unknown.
- ``gfx_target_version`` holds major, minor and stepping in decimal pairs; the name writes the last
  two as hexadecimal digits: 90402 is gfx942, 90010 is gfx90a.
"""

from __future__ import annotations

import re

from spooler.detection import pytorch
from spooler.detection.catalogue import load
from spooler.detection.gpu import Gpu, given, number
from spooler.detection.view import View

NODES = "/sys/class/kfd/kfd/topology/nodes"
CARDS = "/sys/class/drm"
VENDOR = "0x1002"
GIB = 2**30
LOCAL_HEAPS = ("1", "2")

MODELS = {int(number, 16): name for number, name in load("gpus")["amd"].items()}


def gpus(view: View) -> list[Gpu]:
    product = _product(view)
    nodes = (_node(view, f"{NODES}/{name}", product) for name in view.names(NODES))
    described = [gpu for gpu in nodes if gpu is not None]
    return given(view, described) if described else _cards(view, product)


def rocm_version(view: View) -> str:
    """Return the version of ROCm: the installed one's, else the image's, else torch's."""
    return (
        view.read("/opt/rocm/.info/version").partition("\n")[0]
        or view.variable("ROCM_VERSION")
        or pytorch.built_for(view).hip
    )


def architecture(target: int) -> str:
    if target <= 0:
        return ""
    return f"gfx{target // 10000}{target // 100 % 100:x}{target % 100:x}"


def _node(view: View, place: str, product: str) -> Gpu | None:
    facts = _properties(view.read(f"{place}/properties"))
    if number(facts.get("simd_count", "")) == 0:
        return None
    arch = architecture(number(facts.get("gfx_target_version", "")))
    model = MODELS.get(number(facts.get("device_id", "")), "")
    minor = facts.get("drm_render_minor", "")
    return Gpu(
        name=product or model or f"AMD {arch}".strip(),
        arch=arch,
        memory_gb=_local_memory(view, f"{place}/mem_banks"),
        device=f"/dev/dri/renderD{minor}" if minor.isdigit() else "",
    )


def _local_memory(view: View, banks: str) -> float:
    facts = [_properties(view.read(f"{banks}/{name}/properties")) for name in view.names(banks)]
    local = [bank for bank in facts if bank.get("heap_type") in LOCAL_HEAPS]
    return sum(number(bank.get("size_in_bytes", "")) for bank in local) / GIB


def _cards(view: View, product: str) -> list[Gpu]:
    memories = [view.read(f"{card}/mem_info_vram_total") for card in _own_cards(view)]
    return [Gpu(name=product, memory_gb=number(memory) / GIB) for memory in memories if memory]


def _product(view: View) -> str:
    names = (view.read(f"{card}/product_name") for card in _own_cards(view))
    return next((name for name in names if name), "")


def _own_cards(view: View) -> list[str]:
    cards = [name for name in view.names(CARDS) if re.fullmatch(r"card\d+", name)]
    devices = [f"{CARDS}/{name}/device" for name in cards]
    return [device for device in devices if view.read(f"{device}/vendor").lower() == VENDOR]


def _properties(text: str) -> dict[str, str]:
    pairs = (line.split(None, 1) for line in text.splitlines())
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
