"""The telemetry-processor for tests: same routes, strictness, answers and rows, on SQLite.

It leaves out the race between two requests that write one step at the same time (here requests are
stored one after another), and refuses free-form values nested deeper than ``decode.DEEPEST``.
"""

from tests.kit.processor.server import Receiver

__all__ = ["Receiver"]
