"""What `lens-ship check` looks at: one file each, and one line in `REGISTRY`.

A check is a function from `CheckContext` to findings. It changes nothing, neither on disk nor at a
receiver, can run beside a service at work, and ends within seconds; every finding that is not fine
says what to do next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path

from shipper.config.schema import Config
from shipper.discovery.layout import find_spools
from shipper.finding import Finding, fail, ok, warn
from spooler.errors import SpoolError
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader

REGISTRY: dict[str, str] = {
    "state": "shipper.check.state:look",
    "spools": "shipper.check.spools:look",
    "disk": "shipper.check.disk:look",
    "system": "shipper.check.system:look",
    "sinks": "shipper.check.sinks:look",
}

Check = Callable[["CheckContext"], Iterable[Finding]]


@dataclass(frozen=True)
class CheckContext:
    """What there is to look at."""

    config: Config

    @cached_property
    def spools(self) -> list[Path]:
        """The folders of all spools below the root that this user can see."""
        return list(find_spools(self.config.spool))

    @cached_property
    def identities(self) -> list[Identity]:
        """Who wrote them, as far as they can be read."""
        found = []
        for directory in self.spools:
            try:
                found.append(Reader(directory).identity())
            except (SpoolError, OSError):
                continue
        return found


def check_settings(config: Config) -> Iterator[Finding]:
    """What can be said of the settings that `shipper.config.load.load` has taken."""
    given = len(config.given)
    yield ok("settings", f"{given} given, the others at their defaults; see `config show`")
    for warning in config.warnings:
        name = warning.partition(":")[0]
        yield warn("settings", warning, f"rename or unset {name}")


def run_checks(config: Config) -> Iterator[Finding]:
    """All findings, in the registry's order; a check that breaks is a finding too."""
    yield from check_settings(config)
    ground = CheckContext(config)
    for name, place in REGISTRY.items():
        module, _, attribute = place.partition(":")
        look: Check = getattr(import_module(module), attribute)
        try:
            yield from look(ground)
        except Exception as error:  # noqa: BLE001 - the other checks are worth having
            yield fail(
                name,
                f"this check broke: {type(error).__name__}: {error}",
                "report it, with the output of `lens-ship check --json`",
            )
