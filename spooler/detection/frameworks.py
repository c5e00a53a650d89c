"""Wrapper and base frameworks: imported, installed, in which version, and how that is known.

Rules:
- Only frameworks with some evidence are named, and the evidence stands beside the name.
- Indicators are written as ``VARIABLE``, ``sys.modules.name``, ``distribution.name`` or
  ``source.name`` (a source tree on the import path).
- The version is that of the installed distribution, else the module's own text, else a variable.
"""

from __future__ import annotations

from typing import Any

from spooler.detection import installed
from spooler.detection.catalogue import CATALOGUE, Framework
from spooler.detection.installed import Installed
from spooler.detection.view import View


def wrappers(view: View) -> dict[str, dict[str, Any]]:
    """Return the frameworks that a user's script drives."""
    return _found(view, "wrapper")


def bases(view: View) -> dict[str, dict[str, Any]]:
    """Return the frameworks underneath, runtimes included."""
    return _found(view, "base", "runtime")


def _found(view: View, *layers: str) -> dict[str, dict[str, Any]]:
    there = installed.look(view)
    entries = (entry for entry in CATALOGUE if entry.layer in layers)
    seen = {entry.name: _evidence(view, there, entry) for entry in entries}
    return {name: evidence for name, evidence in seen.items() if evidence["indicators"]}


def _evidence(view: View, there: Installed, entry: Framework) -> dict[str, Any]:
    variables = [name for name in (*entry.declares, *entry.marks) if view.variable(name)]
    modules = [
        name for name in dict.fromkeys((*entry.modules, *entry.working)) if view.loaded(name)
    ]
    distributions = [name for name in entry.distributions if there.version(name)]
    sources = [] if distributions else [name for name in entry.modules if name in there.sources]
    return {
        "imported": any(name in modules for name in entry.modules),
        "installed": bool(distributions or sources),
        "version": _version(view, there, entry),
        "indicators": [
            *variables,
            *(f"sys.modules.{name}" for name in modules),
            *(f"distribution.{name}" for name in distributions),
            *(f"source.{name}" for name in sources),
        ],
    }


def _version(view: View, there: Installed, entry: Framework) -> str:
    own = (view.attribute_text(name, "__version__") for name in entry.modules)
    return (
        there.version(*entry.distributions)
        or next((text for text in own if text), "")
        or (view.variable(entry.version_variable) if entry.version_variable else "")
    )
