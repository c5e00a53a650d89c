"""The attacks, by name.

A module of an attack holds `ATTACK`. Its `trial(seed, work)` makes all it needs below the empty
directory `work`, attacks the product, and returns a `Verdict`. It ends what it has started.
Consecutive seeds are consecutive variants, so that an attack that enumerates places visits all of
them. It must fail on each broken build in `catches`: an attack that cannot fail proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.crash.lab.verdict import Verdict

REGISTRY = {
    "spool-kills": "tests.crash.lab.attacks.spool_kills",
    "trainer-kills": "tests.crash.lab.attacks.trainer_kills",
    "shipper-steps": "tests.crash.lab.attacks.shipper_steps",
    "both-kills": "tests.crash.lab.attacks.both_kills",
    "sealing": "tests.crash.lab.attacks.sealing",
    "disk-faults": "tests.crash.lab.attacks.disk_faults",
    "forks": "tests.crash.lab.attacks.forks",
    "system-calls": "tests.crash.lab.attacks.system_calls",
    "power-loss": "tests.crash.lab.attacks.power_loss",
    "network": "tests.crash.lab.attacks.network",
    "hostile-spools": "tests.crash.lab.attacks.hostile_spools",
    "dead-processes": "tests.crash.lab.attacks.dead_processes",
    "accounting": "tests.crash.lab.attacks.accounting",
    "fleet": "tests.crash.lab.attacks.fleet",
    "log-lines": "tests.crash.lab.attacks.log_lines",
    "upgrades": "tests.crash.lab.attacks.upgrades",
    "wandb-untouched": "tests.crash.lab.attacks.wandb_untouched",
    "replays": "tests.crash.lab.attacks.replays",
    "masters": "tests.crash.lab.attacks.masters",
    "disk-limits": "tests.crash.lab.attacks.disk_limits",
    "neighbours": "tests.crash.lab.attacks.neighbours",
    "clocks": "tests.crash.lab.attacks.clocks",
    "detection": "tests.crash.lab.attacks.detection",
    "light": "tests.crash.lab.attacks.light",
}


@dataclass(frozen=True, kw_only=True)
class Trials:
    """How many trials make a run in `make test`, in `make crash`, and in the long run."""

    short: int
    usual: int
    long: int


def _nothing() -> str:
    return ""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack: see the docstring of this module."""

    meaning: str
    promises: tuple[str, ...]
    trial: Callable[[int, Path], Verdict]
    trials: Trials
    catches: tuple[str, ...]
    missing: Callable[[], str] = _nothing  # what this machine lacks for it; "" when nothing


def load(name: str) -> Attack:
    """The attack called `name`.

    Raises:
        KeyError: there is none.
    """
    attack: Attack = import_module(REGISTRY[name]).ATTACK
    return attack
