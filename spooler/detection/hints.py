"""What the evidence suggests about the framework, and how surely; pure.

The strength of a framework:

    3 confirmed  two independent declarations, or one declaration and a working part or mark
    2 probable   one declaration, or a working part (``sys.modules.megatron.core``) or mark
    1 loaded     its module is loaded, which a mere library may have done
    0            installed only: no hint

A declaration is the framework's own variable (``PRIMUS_CONFIG``), the variable ``FRAMEWORK``, or
a configuration key such as ``wandb_config.framework``. Each counts once, whatever else it says.

    possible_frameworks   strength 2 and 3, strongest first; if there is none, what is loaded;
                          a runtime (pytorch) only when declared, or when nothing else is loaded
    primary_indicators    the declarations of those; if there is none, their working parts and
                          marks; if there is none, their modules
    confidence            high for 3, medium for 2, low below; declarations naming two frameworks
                          of one layer contradict each other and give medium at most
    wrapper_frameworks, base_frameworks   all of strength 1 and above, by layer
    framework_layers      framework -> its layer, strength and indicators
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spooler.detection.catalogue import CATALOGUE

CONFIG_KEYS = ("framework", "training_framework", "wrapper_framework", "base_framework")
MOST_NAMES = 8

_CONFIDENCE = ("low", "low", "medium", "high")
_KNOWN = {entry.name: entry for entry in CATALOGUE}
_CANONICAL = {
    spelling: entry.name for entry in CATALOGUE for spelling in (entry.name, *entry.aliases)
}
_NAME = re.compile(r"[a-z0-9][a-z0-9_.]{0,63}")
_MODULE = "sys.modules."


@dataclass(frozen=True, kw_only=True)
class Case:
    """What speaks for one framework."""

    name: str
    declared: tuple[str, ...]
    working: tuple[str, ...]
    loaded: tuple[str, ...]

    @property
    def strength(self) -> int:
        if len(self.declared) > 1 or (self.declared and self.working):
            return 3
        if self.declared or self.working:
            return 2
        return 1 if self.loaded else 0

    @property
    def layer(self) -> str:
        """Return the layer; a framework not known here has none."""
        return _KNOWN[self.name].layer if self.name in _KNOWN else ""


def derive(
    environment: Mapping[str, str],
    config: Mapping[str, Any],
    frameworks: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return the hints for the reported environment, configuration and frameworks."""
    cases = _cases(environment, config, frameworks)
    probable = [case for case in cases if case.strength >= 2]
    possible = probable or [case for case in cases if case.layer != "runtime"] or cases
    strongest = max((case.strength for case in possible), default=0)
    declared = [case.layer for case in cases if case.declared and case.layer]
    if len(declared) != len(set(declared)):
        strongest = min(strongest, 2)
    return {
        "possible_frameworks": [case.name for case in possible],
        "wrapper_frameworks": [case.name for case in cases if case.layer == "wrapper"],
        "base_frameworks": [case.name for case in cases if case.layer in ("base", "runtime")],
        "primary_indicators": _primary(possible),
        "confidence": _CONFIDENCE[strongest],
        "framework_layers": {case.name: _described(case) for case in cases},
    }


def _cases(
    environment: Mapping[str, str],
    config: Mapping[str, Any],
    frameworks: Mapping[str, Mapping[str, Any]],
) -> list[Case]:
    declared: dict[str, list[str]] = {}
    for name, indicator in _declarations(environment, config):
        declared.setdefault(name, []).append(indicator)
    order = dict.fromkeys((*declared, *_KNOWN))
    cases = [
        _case(name, tuple(dict.fromkeys(declared.get(name, ()))), frameworks.get(name, {}))
        for name in order
    ]
    # Sorting keeps the order of equals: as declared, then as catalogued.
    return sorted((case for case in cases if case.strength), key=lambda case: -case.strength)


def _declarations(
    environment: Mapping[str, str], config: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    for entry in CATALOGUE:
        yield from ((entry.name, name) for name in entry.declares if environment.get(name))
    yield from ((name, "FRAMEWORK") for name in _named(environment.get("FRAMEWORK")))
    for key in CONFIG_KEYS:
        yield from ((name, f"wandb_config.{key}") for name in _named(config.get(key)))


def _named(value: object) -> list[str]:
    """Return the frameworks a declaration names: one, or several between separators."""
    if not isinstance(value, str):
        return []
    spelled = (re.sub(r"[-\s]+", "_", part.strip().lower()) for part in re.split("[,;+/]", value))
    names = [_CANONICAL.get(name, name) for name in spelled if _NAME.fullmatch(name)]
    return list(dict.fromkeys(names))[:MOST_NAMES]


def _case(name: str, declared: tuple[str, ...], evidence: Mapping[str, Any]) -> Case:
    indicators = [text for text in evidence.get("indicators", ()) if text not in declared]
    entry = _KNOWN.get(name)
    parts = {f"{_MODULE}{module}" for module in entry.working} if entry else set()
    working = parts.union(entry.marks if entry else ())
    return Case(
        name=name,
        declared=declared,
        working=tuple(text for text in indicators if text in working),
        loaded=tuple(text for text in indicators if text.startswith(_MODULE)),
    )


def _primary(possible: list[Case]) -> list[str]:
    for kind in ("declared", "working", "loaded"):
        found = [text for case in possible for text in getattr(case, kind)]
        if found:
            return list(dict.fromkeys(found))
    return []


def _described(case: Case) -> dict[str, Any]:
    return {
        "layer": case.layer or "unknown",
        "strength": ("", "loaded", "probable", "confirmed")[case.strength],
        "indicators": list(dict.fromkeys((*case.declared, *case.working, *case.loaded))),
    }
