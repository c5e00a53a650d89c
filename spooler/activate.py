"""Puts the hooks on the trackers that are imported, and on others as soon as they are."""

from __future__ import annotations

import os
import sys

from spooler import lens_ship_start
from spooler.hooks import REGISTRY, TRAINING, awaited

TYPE_CHECKING = False  # as in `spooler`
if TYPE_CHECKING:
    from typing import Any


def activate() -> None:
    """Hook every module that is awaited: now if it is imported, and whenever it is."""
    lens_ship_start.settle_root()
    modules = awaited(os.environ)
    for name in modules:
        module = sys.modules.get(name)
        if module is not None:
            wrap(name, module)
    lens_ship_start.wait(modules)


def install() -> None:
    """Install the hooks by hand: now if a tracker is imported, else as soon as it is.

    The same as starting Python with `PRIMUS_LENS_WANDB_OUTPUT_PATH` set, for environments without
    the `.pth` file. Does nothing if `PRIMUS_LENS_WANDB_HOOK` is off.
    """
    from spooler import config, stderr

    if config.is_hook_on(os.environ):
        activate()
    else:
        stderr.debug(f"{config.HOOK} is off: nothing is hooked")


def uninstall() -> None:
    """Remove the hooks; what is recorded stays recorded."""
    lens_ship_start.stop_waiting()
    for name in (*REGISTRY, *TRAINING):
        module = sys.modules.get(name)
        if module is not None:
            _hook(name).unwrap(module)


def wrap(name: str, module: Any) -> None:
    """Hook a module; a failure is reported and changes nothing."""
    try:
        if name in TRAINING or _is_on(REGISTRY[name].rpartition(".")[2]):
            _hook(name).wrap(module)
    except Exception as error:
        from spooler import async_exceptions

        if async_exceptions.is_async(error):
            raise
        sys.stderr.write(
            f"[Primus Lens WandB] lens-ship cannot hook {name} ({type(error).__name__}: {error})."
            " Training continues. Nothing is recorded.\n"
        )


def _is_on(tracker: str) -> bool:
    from spooler import config, stderr

    if config.is_tracker_on(os.environ, tracker):
        return True
    bad: dict[str, str] = {}
    config.from_environ(os.environ, bad)
    stderr.report_settings(bad)
    stderr.debug(f"{tracker} is not recorded: {config.TRACKERS} does not name it")
    return False


def _hook(name: str) -> Any:
    from importlib import import_module

    return import_module(TRAINING.get(name) or REGISTRY[name])
