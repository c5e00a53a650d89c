"""One GPU as the files of the machine describe it.

Rules:
- A GPU belongs to the job when its device file is there: a container sees the description of
  every GPU of its node, but gets the device files of its own. Where no device file of any GPU is
  visible, all described GPUs are counted.
- Visibility variables do not narrow the count: they speak of a process, this of its machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from spooler.detection.view import View


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """What is known of one GPU; empty or zero where nothing is."""

    name: str = ""
    arch: str = ""
    memory_gb: float = 0.0
    device: str = ""


def given(view: View, described: list[Gpu]) -> list[Gpu]:
    """Return the GPUs of this job among those described."""
    own = [gpu for gpu in described if gpu.device and view.exists(gpu.device)]
    return own or described


def number(text: str) -> int:
    """Read a whole number of a description; zero when it is none, or none that can be meant."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
