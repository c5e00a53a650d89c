"""Runs attacks within a time: first on the product, then on the broken builds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from tests.crash.lab.attacks import load
from tests.crash.lab.broken import build
from tests.crash.lab.laboratory import run_trial
from tests.crash.lab.verdict import Verdict, is_finding, together

_Job = TypeVar("_Job")


@dataclass(frozen=True, kw_only=True)
class TrialOrder:
    """An attack and how many trials of it are wanted, from which seed on."""

    name: str
    trials: int
    seed: int


@dataclass(kw_only=True)
class AttackResult:
    """The result of one attack: verdicts by seed, and for each broken build whether it was noticed.

    None for a broken build means that the time was over.
    """

    name: str
    missing: str = ""
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    broken_builds: dict[str, bool | None] = field(default_factory=dict)

    @property
    def together(self) -> Verdict:
        """All verdicts in one."""
        return together(self.verdicts.values())

    @property
    def is_good(self) -> bool:
        """Nothing failed, and every broken build was noticed."""
        return not self.together.failures and False not in self.broken_builds.values()


@dataclass(frozen=True, kw_only=True)
class Laboratory:
    """Where and how trials are run, `workers` at a time."""

    directory: Path
    workers: int
    say: Callable[[str], None]

    def attack(self, orders: Sequence[TrialOrder], until: float) -> dict[str, AttackResult]:
        """Attack the product; a trial that would begin after monotonic `until` is left out."""
        outcomes = {
            o.name: AttackResult(name=o.name, missing=load(o.name).missing()) for o in orders
        }
        able = [order for order in orders if not outcomes[order.name].missing]

        def run(job: tuple[str, int]) -> None:
            name, seed = job
            verdict = run_trial(name, seed, self.directory / f"{name}-{seed}")
            outcomes[name].verdicts[seed] = verdict
            for failure in verdict.failures:
                self.say(f"{name}, seed {seed}: {failure}")

        self._all(_in_turns(able), run, until)
        return outcomes

    def attack_broken(
        self, orders: Sequence[TrialOrder], until: float
    ) -> dict[str, dict[str, bool]]:
        """Attack each broken build that an attack must notice, until it does."""
        caught: dict[str, dict[str, bool]] = {order.name: {} for order in orders}

        def run(job: tuple[TrialOrder, str]) -> None:
            order, broken_build = job
            failure = self._first_finding(order, broken_build, until)
            if failure is None and time.monotonic() >= until:
                return
            caught[order.name][broken_build] = failure is not None
            self.say(f"{order.name} on {broken_build}: {(failure or 'NOT NOTICED')[:160]}")

        able = [order for order in orders if not load(order.name).missing()]
        self._all([(o, m) for o in able for m in load(o.name).catches], run, until)
        return caught

    def _first_finding(self, order: TrialOrder, broken_build: str, until: float) -> str | None:
        tree = build(broken_build, self.directory / "broken" / order.name)
        for seed in range(order.seed, order.seed + order.trials):
            if time.monotonic() >= until:
                return None
            work = self.directory / f"{order.name}-{broken_build}-{seed}"
            for failure in run_trial(order.name, seed, work, tree).failures:
                if is_finding(failure):
                    return f"seed {seed}: {failure}"
        return None

    def _all(self, jobs: Iterable[_Job], run: Callable[[_Job], None], until: float) -> None:
        with ThreadPoolExecutor(self.workers) as pool:
            running: set[Future[None]] = set()
            for job in jobs:
                if time.monotonic() >= until:
                    break
                running.add(pool.submit(run, job))
                if len(running) >= self.workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            for future in running:
                future.result()


def _in_turns(orders: Sequence[TrialOrder]) -> Iterator[tuple[str, int]]:
    """One trial of each attack after the other, so that a short time is shared by all."""
    for turn in range(max((order.trials for order in orders), default=0)):
        for order in orders:
            if turn < order.trials:
                yield order.name, order.seed + turn
