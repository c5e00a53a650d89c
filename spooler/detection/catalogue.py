"""What detection knows: the files in `data/`, and the frameworks among them.

frameworks.json: one object for each framework, see `Framework`. The order is the order in which
equals are named.
environment.json: the environment variables that may be reported, and prefixes that a launcher owns.
packages.json: the packages whose versions matter, under the names that the package index uses.
build.json: for each field of the build, the variables that may fill it, the best one first.
modules.json: modules of which is reported whether they were loaded beside PyTorch.
gpus.json: device ids of AMD GPUs, and patterns of NVIDIA model names with their architectures. The
first pattern that matches counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Framework:
    """One framework and its marks.

    `layer` is "wrapper" for what a user's script drives, "base" for what does the distributed work
    underneath, "runtime" for what only computes: nearly every job loads one, so it is named last.
    """

    name: str
    layer: str
    modules: tuple[str, ...]  # loaded: the framework was imported
    working: tuple[str, ...] = ()  # loaded by a job that trains with it, not by a mere library
    distributions: tuple[str, ...] = ()
    declares: tuple[str, ...] = ()  # variables set in order to choose the framework
    marks: tuple[str, ...] = ()  # variables that its launcher or image leaves behind
    version_variable: str = ""
    aliases: tuple[str, ...] = ()


def load(name: str) -> Any:
    path = Path(__file__).with_name("data") / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _framework(entry: dict[str, Any]) -> Framework:
    tuples = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
    return Framework(**{**entry, **tuples})


CATALOGUE = tuple(map(_framework, load("frameworks")))

MODULES = frozenset(name for entry in CATALOGUE for name in (*entry.modules, *entry.working))
"""Every module whose presence tells something."""
