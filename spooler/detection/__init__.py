"""What is known about the training job: frameworks, hardware, packages, build, and hints.

The contract of a source of evidence:

- A source is one function ``look(view) -> dict`` in one file, and one line in ``REGISTRY``. The
  name is the section of the request it fills; "a.b" fills the field b of section a.
- It only looks: at the arguments in its ``View``, loaded modules, metadata and files. It never
  imports a framework, opens a device, runs a program, or waits for anything but a file.
- It returns the field types the receiver decodes (an int is never a float, a text never a
  null). A section with nothing to say is left out.
- It may raise. The others are not lost: its section is absent, and the kind of its error stands
  under its name in ``evidence["system"]["evidence_errors"]``.

Whatever a source returns is then made fit for JSON: no NaN, no NUL, no text that looks like a
credential, bounded in depth, length and size with visible marks where something was cut.

``collect`` keeps no state, so any thread may call it, and it may be called again later when
more has been imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from spooler.detection.view import RunFacts, View

__all__ = ["REGISTRY", "RunFacts", "View", "collect", "imported_frameworks"]

T = TypeVar("T")

REGISTRY: dict[str, str] = {
    "wandb": "run:identity",
    "wandb.config": "run:config",
    "environment": "environment:look",
    "pytorch": "pytorch:look",
    "wrapper_frameworks": "frameworks:wrappers",
    "base_frameworks": "frameworks:bases",
    "system": "system:look",
    "system.names": "run:names",
    "hardware": "hardware:look",
    "software": "software:look",
    "build": "build:look",
}
"""Section of the request -> "file:function", loaded on use."""

KEYED_BY_USER = frozenset({"wandb.config"})
"""Sections whose keys the user chose: there a key, too, can tell that its value is a secret."""


def collect(
    run: RunFacts,
    environ: Mapping[str, str],
    modules: Mapping[str, object],
    files: Path = Path("/"),
) -> dict[str, Any]:
    """Return ``{"evidence": ..., "hints": ...}``, ready for JSON; never raises."""
    errors: dict[str, str] = {}
    # The copy is one step of the interpreter; a loop over the live table could meet an import.
    loaded = _attempt("modules", lambda: dict(modules), errors) or {}
    view = View(run=run, environ=environ, modules=loaded, files=files)
    evidence: dict[str, Any] = {}
    for name in REGISTRY:
        section = _attempt(name, partial(_section, name, view), errors)
        if section:
            _place(evidence, name, section)
    hints = _attempt("hints", partial(_hints, evidence), errors)
    if errors:
        evidence.setdefault("system", {})["evidence_errors"] = errors
    return {"evidence": evidence, "hints": hints or {"confidence": "low"}}


def imported_frameworks(modules: Mapping[str, object]) -> frozenset[str]:
    """Return the modules of known frameworks that are loaded; cheap enough to ask every second.

    When the answer has grown since the last ``collect``, another look would find more.
    """
    from spooler.detection.catalogue import MODULES

    return frozenset(name for name in MODULES if modules.get(name) is not None)


def _attempt(name: str, work: Callable[[], T], errors: dict[str, str]) -> T | None:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - the border: evidence never disturbs a training
        errors[name] = type(error).__name__
        return None


def _section(name: str, view: View) -> dict[str, Any]:
    from spooler.json_safe import json_safe

    file, _, function = REGISTRY[name].partition(":")
    look = getattr(import_module(f"spooler.detection.{file}"), function)
    cleaned: dict[str, Any] = json_safe(look(view), hide_by_key=name in KEYED_BY_USER)
    return cleaned


def _place(evidence: dict[str, Any], name: str, section: dict[str, Any]) -> None:
    outer, _, field = name.partition(".")
    if field:
        evidence.setdefault(outer, {})[field] = section
    else:
        evidence[name] = section


def _hints(evidence: Mapping[str, Any]) -> dict[str, Any]:
    from spooler.detection.hints import derive

    return derive(
        evidence.get("environment", {}),
        evidence.get("wandb", {}).get("config", {}),
        {**evidence.get("wrapper_frameworks", {}), **evidence.get("base_frameworks", {})},
    )
