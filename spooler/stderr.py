"""Messages on the job's stderr: each problem once, details only on request."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from spooler import config
from spooler.async_exceptions import ours

_PREFIX = "[Primus Lens WandB]"
_reported: dict[str, object] = {}


def report_once(key: str, message: str) -> None:
    """Print `message` unless this process has printed one under `key`.

    One step of the interpreter decides, not a lock: a signal handler or a forked child that comes
    here while another call is under way must not wait for it.
    """
    mine = object()
    if _reported.setdefault(key, mine) is mine:
        _print(message)


def report_settings(bad: Mapping[str, str]) -> None:
    """Print what `config.read` has found."""
    for name, problem in bad.items():
        report_once(name, f"{name} {problem}")


def debug(message: str) -> None:
    """Print `message` when `PRIMUS_LENS_WANDB_DEBUG` is on."""
    if config.from_environ(os.environ).debug:
        _print(message)


def _print(message: str) -> None:
    try:
        sys.stderr.write(f"{_PREFIX} {message}\n")
    except ours(Exception):  # stderr may be any object
        # It is closed, gone, or busy below a signal handler. Training continues.
        return
