"""The output pipe is closed early: every command exits the same way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.kit.command import start_lens_ship
from tests.kit.shipping import goodbye, spool, step
from tests.kit.spools import PATIENCE_SECONDS


@pytest.mark.parametrize(
    "words", [["status"], ["config", "show"], ["config", "default"], ["check"], ["inspect", "."]]
)
def test_a_closed_pipe_has_an_exit_code_of_its_own(words: list[str], tmp_path: Path) -> None:
    """Not 1, which for status and check means that operator action is required."""
    spool(tmp_path / "spool", [step(1), goodbye()])
    paths = [str(tmp_path / "spool") if word == "." else word for word in words]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        state = str(tmp_path / "state")
        process = start_lens_ship(
            *paths,
            stdout=writing,
            LENS_SHIP_SPOOL=str(tmp_path / "spool"),
            LENS_SHIP_STATE=state,
            LENS_SHIP_PROCESSOR_URL="http://127.0.0.1:9/v1",
        )
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        os.close(writing)
    assert (process.returncode, said) == (141, "")


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]])
def test_a_stream_that_is_closed_from_the_start_is_no_error(
    closed: list[int], tmp_path: Path
) -> None:
    """Nor does its number go to a file of ours, which fatal errors would be written into."""
    spool(tmp_path / "spool", [step(1), goodbye()])
    before = "\n".join(
        ["import os, sys", *(f"os.close({number})" for number in closed)]
        + [
            f"sys.{name} = None"
            for number, name in enumerate(("stdin", "stdout", "stderr"))
            if number in closed
        ]
    )
    after = tmp_path / "descriptors"
    before += f"""
import atexit
links = lambda: [os.readlink(f"/proc/self/fd/{{n}}") for n in {closed}]
atexit.register(lambda: open({str(after)!r}, "w").write("\\n".join(links())))
"""
    process = start_lens_ship(
        *("run", "--once", "--timeout", "1", "--processor-url", "http://127.0.0.1:9/v1"),
        before=before,
        LENS_SHIP_SPOOL=str(tmp_path / "spool"),
        LENS_SHIP_STATE=str(tmp_path / "state"),
    )
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, "its record is pending"
    assert after.read_text().split() == ["/dev/null"] * len(closed)
