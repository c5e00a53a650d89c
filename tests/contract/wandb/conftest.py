"""The programs are run once for all tests that ask for them."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.contract.wandb.ran import Ran, run_program


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """Runs a program once, however many tests ask for it."""
    done: dict[str, Ran] = {}

    def run(name: str, **environ: str) -> Ran:
        key = json.dumps([name, environ])
        if key not in done:
            done[key] = run_program(tmp_path_factory.mktemp(name), name, environ)
        return done[key]

    return run
