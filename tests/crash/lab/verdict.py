"""What a trial has shown, and what several have together. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_NAMED = re.compile(r"G\d+: ")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One trial's result.

    `faults` says how often the product was hit. Each failure begins with the promise that it breaks
    (`G1: …`); one that does not, breaks all that were attacked. `figures` are worst values by name,
    units in the name.
    """

    faults: int = 0
    failures: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of text."""
        return json.dumps(
            {"faults": self.faults, "failures": self.failures, "figures": dict(self.figures)}
        )

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """Undo `to_json`."""
        given = json.loads(text)
        return cls(
            faults=given["faults"], failures=tuple(given["failures"]), figures=given["figures"]
        )


class Findings:
    """Collects what a trial finds on its way to a verdict."""

    def __init__(self) -> None:
        self.faults = 0
        self.failures: list[str] = []
        self.figures: dict[str, float] = {}

    def check(self, holds: object, promise: str, text: str) -> bool:
        """Note that `promise` is broken unless `holds`."""
        if not holds:
            self.failures.append(f"{promise}: {text}")
        return bool(holds)

    def worst(self, name: str, value: float) -> None:
        """Keep the highest value of a figure."""
        self.figures[name] = max(value, self.figures.get(name, value))

    def verdict(self) -> Verdict:
        """All of it."""
        return Verdict(
            faults=self.faults, failures=tuple(self.failures), figures=dict(self.figures)
        )


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Sum up: faults added, failures in a row, the worst of every figure."""
    all_of = Findings()
    for verdict in verdicts:
        all_of.faults += verdict.faults
        all_of.failures += verdict.failures
        for name, value in verdict.figures.items():
            all_of.worst(name, value)
    return all_of.verdict()


def breaks(failure: str, promise: str) -> bool:
    """Whether a failure speaks against a promise."""
    return failure.startswith(f"{promise}: ") or not _NAMED.match(failure)


def is_finding(failure: str) -> bool:
    """Whether it tells of the product; a trial that died by a mistake of its own does not."""
    return bool(_NAMED.match(failure)) or failure.startswith("hangs")
