"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# A time limit per example measures how busy the machine is, and fails for nothing else.
settings.register_profile("lens-ship", deadline=None)
settings.load_profile("lens-ship")
# `make fuzz` looks for longer.
if os.environ.get("LENS_SHIP_FUZZ_EXAMPLES"):
    examples = int(os.environ["LENS_SHIP_FUZZ_EXAMPLES"])
    settings.register_profile("fuzz", deadline=None, max_examples=examples)
    settings.load_profile("fuzz")
