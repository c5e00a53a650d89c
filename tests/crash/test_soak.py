"""The soak at its shortest: `make soak` runs it for half an hour."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.crash.lab.laboratory import REPOSITORY
from tests.crash.lab.verdict import Findings
from tests.crash.soak import SLOPES, Track, flat
from tests.kit.engines import needs_prometheus, needs_victoria
from tests.kit.spools import environment

SECONDS = 20
# The same each time, as for the attacks of the lab; `make soak` draws a new one.
_SEED = os.environ.get("LENS_SHIP_SEED", "1048576")


@pytest.mark.promise("G4")
@pytest.mark.promise("G17")
def test_nothing_is_lost_while_everything_fails() -> None:
    # A process of its own, as every trial of the lab: its ranks are forked.
    words = ("--minutes", str(SECONDS / 60), "--seed", _SEED)
    soak = subprocess.run(
        [sys.executable, "-m", "tests.crash.soak", *words],
        cwd=REPOSITORY,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert soak.returncode == 0, soak.stdout + soak.stderr
    steps = re.search(r"^([\d,]+) steps", soak.stdout, re.MULTILINE)
    assert steps is not None
    assert int(steps[1].replace(",", "")) > SECONDS, soak.stdout


@needs_victoria
@needs_prometheus
@pytest.mark.promise("G4")
def test_receivers_of_time_series_have_every_step_whatever_is_killed() -> None:
    soak = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.crash.series_soak",
            "--no-mlflow",
            "--kills",
            "12",
            "--seed",
            _SEED,
        ],
        cwd=REPOSITORY,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert soak.returncode == 0, soak.stdout + soak.stderr


def test_what_grows_is_noticed() -> None:
    for place, name in enumerate(SLOPES):
        track, found = Track(pid=1), Findings()
        for number in range(90):
            sample = [50_000.0, 20.0, 50.0]
            sample[place] *= 1 + number / 20
            track.samples.append((sample[0], sample[1], sample[2]))
        flat(track, "it", found)
        assert len(found.failures) == 1, found.failures
        assert name in found.failures[0]
