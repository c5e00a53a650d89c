"""The short version of every attack of the lab; `make crash` runs them all at length."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.crash.lab.attacks import REGISTRY, load
from tests.crash.lab.broken import BROKEN_BUILDS, build, patched
from tests.crash.lab.laboratory import REPOSITORY, run_trial
from tests.crash.lab.matrix import promises
from tests.crash.lab.patches import Patch, StalePatch
from tests.crash.lab.verdict import Verdict, breaks, together

_FIRST_SEED = int(os.environ.get("LENS_SHIP_SEED", "1048576"))


def _short() -> list[Any]:
    return [
        pytest.param(name, turn, marks=[pytest.mark.promise(p) for p in load(name).promises])
        for name in REGISTRY
        for turn in range(load(name).trials.short)
    ]


@pytest.mark.parametrize(("name", "turn"), _short())
def test_the_promises_hold_under(name: str, turn: int, tmp_path: Path) -> None:
    missing = load(name).missing()
    if missing:
        pytest.skip(missing)
    # Consecutive, so that an attack that enumerates places visits as many of them as it has turns;
    # the same each time, so that a failure is the change's. `make crash` draws new ones.
    seed = _FIRST_SEED + turn
    verdict = run_trial(name, seed, tmp_path / "work")
    assert verdict.failures == (), f"--attack {name} --seed {seed} --trials 1"
    assert verdict.faults > 0, "an attack that hits nothing proves nothing"


@pytest.mark.parametrize("name", BROKEN_BUILDS)
def test_a_broken_build_is_the_product_with_its_mistake(name: str) -> None:
    for file, text in patched(BROKEN_BUILDS[name]).items():
        assert text != (REPOSITORY / file).read_text(encoding="utf-8")
        # A name that is not defined ends the trial before it has attacked anything.
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", "-"]
        checked = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, f"{file}: {checked.stdout}{checked.stderr}"


def test_a_patch_that_no_longer_applies_is_an_error() -> None:
    with pytest.raises(StalePatch):
        Patch(file="f", old="once", new="").applied("once and once more")


def test_every_broken_build_is_for_an_attack_and_every_attack_has_one() -> None:
    wanted = {name: load(name).catches for name in REGISTRY}
    assert all(wanted.values()), "an attack that cannot fail is not an attack"
    assert {broken_build for names in wanted.values() for broken_build in names} == set(
        BROKEN_BUILDS
    )


def test_every_attack_is_one_file_and_one_line() -> None:
    directory = REPOSITORY / "tests" / "crash" / "lab" / "attacks"
    files = {path.stem for path in directory.glob("*.py")} - {"__init__"}
    assert {place.rpartition(".")[2] for place in REGISTRY.values()} == files
    assert {name.replace("-", "_") for name in REGISTRY} == files
    for name in REGISTRY:
        assert set(load(name).promises) <= set(promises()), name


def test_an_attack_notices_a_broken_build(tmp_path: Path) -> None:
    tree = build("no-commit-before-return", tmp_path)
    verdict = run_trial("spool-kills", 1, tmp_path / "work", tree)
    assert any(breaks(failure, "G1") for failure in verdict.failures)


def test_a_trial_that_dies_is_a_failure_of_all_it_attacks(tmp_path: Path) -> None:
    verdict = run_trial("no such attack", 1, tmp_path / "work")
    assert verdict.failures
    assert breaks(verdict.failures[0], "G1")
    assert breaks(verdict.failures[0], "G7")


def test_the_children_of_a_trial_that_dies_are_not_waited_for(tmp_path: Path) -> None:
    trial = tmp_path / "tests" / "crash" / "lab" / "trial.py"
    trial.parent.mkdir(parents=True)
    for package in (trial.parent, trial.parents[1], trial.parents[2]):
        (package / "__init__.py").touch()
    trial.write_text("import os, signal\nos.fork() or signal.pause()\nraise SystemExit(3)\n")
    verdict = run_trial("spool-kills", 1, tmp_path / "work", tmp_path)
    assert verdict.failures == ("died with 3: no output",)


def test_verdicts_add_up_to_the_worst() -> None:
    one = Verdict(faults=2, failures=("G1: lost",), figures={"stall ms": 3.0})
    two = Verdict(faults=1, figures={"stall ms": 5.0, "lost": 0.0})
    both = together([one, Verdict.from_json(two.to_json())])
    assert both == Verdict(faults=3, failures=("G1: lost",), figures={"stall ms": 5.0, "lost": 0.0})
    assert not breaks("G1: lost", "G11")
