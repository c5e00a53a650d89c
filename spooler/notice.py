"""What the training side says on stderr: each trouble once, and more only when asked for."""

from __future__ import annotations

import os
import sys
import threading

from spooler import config

_PREFIX = "[Primus Lens WandB]"
_said: set[str] = set()
_lock = threading.Lock()


def say_once(key: str, message: str) -> None:
    """Print `message` unless something has been said under `key` in this process."""
    with _lock:
        if key in _said:
            return
        _said.add(key)
    _print(message)


def debug(message: str) -> None:
    """Print `message` when `PRIMUS_LENS_WANDB_DEBUG` is on."""
    if config.from_environ(os.environ).debug:
        _print(message)


def _print(message: str) -> None:
    try:
        sys.stderr.write(f"{_PREFIX} {message}\n")
    except (OSError, ValueError, AttributeError):
        # stderr is closed or gone: there is nobody left to tell, and training goes on.
        return
