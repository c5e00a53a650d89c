"""A wall clock that jumps while a process runs (libfaketime); the monotonic one goes on."""

from __future__ import annotations

import glob
from pathlib import Path

LIBRARIES = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
MISSING = "no libfaketime here (Debian: faketime)"


class FakeTime:
    """A clock that processes started with `environ` read again at every call."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = folder / f"clock-{name}"
        self.jump(0)
        self.environ = {
            "LD_PRELOAD": LIBRARIES[0],
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            # The times of files stay what they are when a clock jumps.
            "NO_FAKE_STAT": "1",
        }

    def jump(self, days: float) -> None:
        """Be so many days off from now on."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{days:+g}d\n")
        draft.replace(self._file)
