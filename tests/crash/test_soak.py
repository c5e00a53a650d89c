"""The soak at its shortest: `make soak` runs it for half an hour."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.crash.lab.verdict import Findings
from tests.crash.soak import SLOPES, Soak, Track, flat

SECONDS = 20


@pytest.mark.promise("G4")
@pytest.mark.promise("G17")
def test_nothing_is_lost_while_everything_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PRIMUS_LENS_WANDB_OUTPUT_PATH", "WORKLOAD_UID", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")  # put back afterwards, whatever the soak sets
    seed = random.SystemRandom().getrandbits(24)
    soak, found = Soak(tmp_path, random.Random(seed)), Findings()
    try:
        soak.run(SECONDS)
        soak.end(found)
    finally:
        soak.stop()
    assert found.failures == [], f"seed {seed}"
    assert sum(map(len, soak.told.values())) > 0
    assert soak.track.samples


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
