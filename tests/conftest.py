"""What holds for every test."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# A time limit per example measures how busy the machine is, and fails for nothing else.
settings.register_profile("lens-ship", deadline=None)
settings.load_profile("lens-ship")
# `make fuzz` looks for longer.
if os.environ.get("LENS_SHIP_FUZZ_EXAMPLES"):
    examples = int(os.environ["LENS_SHIP_FUZZ_EXAMPLES"])
    settings.register_profile("fuzz", deadline=None, max_examples=examples)
    settings.load_profile("fuzz")

# A shell ignores these for a command in the background and nohup does, and so would each process
# that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The crash lab first: a long test that begins last leaves the other workers without one."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/crash/"))
