"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# A time limit per example measures how busy the machine is, and fails for nothing else.
settings.register_profile("lens-ship", deadline=None)
settings.load_profile("lens-ship")
