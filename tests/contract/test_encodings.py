"""Paths that are not UTF-8, and terminals that are not, end no command with a traceback."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.kit.command import lens_ship
from tests.kit.shipping import goodbye, spool, step
from tests.kit.spools import identity, spool_id

TENANT = os.fsdecode(b"t\xe4nant")
COMMANDS = (
    "run --once --timeout 5",
    "status",
    "status --json",
    "status --all",
    "audit",
    "audit --json",
    "inspect ROOT",
    "inspect --json ROOT",
    "inspect ROOT/TENANT",
    "tail",
    "tail --json ROOT/TENANT",
    "plot",
    "replay --dry-run --resend-delivered",
    "replay --dry-run ROOT/TENANT",
    "quarantine list",
    "check",
    "config show",
    "config show --json",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "spool"
    for salt, tenant in enumerate((TENANT, "other")):
        spool(root / tenant, [step(1), step(2), goodbye()], who=identity(spool_id(salt)))
    return root


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_read_command_prints_whatever_the_encoding(encoding: str, root: Path) -> None:
    environ = {
        "PYTHONIOENCODING": encoding,
        "LENS_SHIP_SPOOL": str(root),
        "LENS_SHIP_STATE": str(root.parent / "state"),
        "LENS_SHIP_PROCESSOR_URL": "http://127.0.0.1:9",
    }
    for command in COMMANDS:
        words = command.replace("TENANT", TENANT).replace("ROOT", str(root)).split()
        done = lens_ship(*words, **environ)
        assert "Traceback" not in done.err, (command, done.err)
        assert done.code in (0, 1), (command, done.err)
        if "--json" in words and words[0] != "tail":
            json.loads(done.out)
