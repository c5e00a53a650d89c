"""The `.pth` file that activates the hook: where it is, whether it is whole, how to repair it."""

from __future__ import annotations

import importlib.metadata
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from shipper.errors import ShipperError
from spooler import config

PTH_NAME = "lens_ship.pth"
PTH_LINE = (
    'import os; (os.environ.get("PRIMUS_LENS_WANDB_OUTPUT_PATH") and os.environ.get('
    '"PRIMUS_LENS_WANDB_HOOK", "").strip().lower() not in ("false", "0", "no", "off"))'
    ' and __import__("spooler.activate").activate.activate()\n'
)


class HookError(ShipperError):
    """The environment's site-packages cannot be written."""


def pth_path() -> Path:
    """Where the file belongs in this environment."""
    return Path(sysconfig.get_paths()["purelib"]) / PTH_NAME


def is_whole(path: Path) -> bool:
    """Whether the file is there with exactly our line."""
    try:
        return path.read_text(encoding="utf-8") == PTH_LINE
    except (OSError, UnicodeDecodeError):
        return False


def report(environ: Mapping[str, str]) -> tuple[list[str], bool]:
    """Lines for people, and whether a Python process started now would be hooked."""
    path = pth_path()
    whole = is_whole(path)
    root = environ.get(config.OUTPUT_PATH, "")
    on = config.is_hook_on(environ)
    lines = [
        f"activation file   {path}: {_state(path, whole)}",
        f"wandb             {_wandb_version()}",
        f"variable          {config.OUTPUT_PATH} is {root or 'not set: processes are not hooked'}",
        f"switch            {config.HOOK} is {'on' if on else 'off: processes are not hooked'}",
    ]
    if root:
        lines.append(f"spool root        {_root_state(Path(root))}")
    active = whole and bool(root) and on
    lines.append(f"hook              {'active' if active else 'not active'}")
    return lines, active


def install() -> str:
    """Write the file; return what was done.

    Raises:
        HookError: site-packages is not writable.
    """
    path = pth_path()
    if is_whole(path):
        return f"{path} is in place; nothing to do"
    try:
        path.write_text(PTH_LINE, encoding="utf-8")
    except OSError as error:
        raise HookError(
            f"{path}: {error}; nothing was changed. Where it cannot be written, call"
            " spooler.install() at the top of the training script instead"
        ) from error
    return f"{path} written: Python processes of this environment are hooked from now on"


def uninstall() -> str:
    """Remove the file; return what was done.

    Raises:
        HookError: site-packages is not writable.
    """
    path = pth_path()
    try:
        path.unlink()
    except FileNotFoundError:
        return f"{path} is not there; nothing to do"
    except OSError as error:
        raise HookError(f"{path}: {error}; nothing was changed") from error
    return f"{path} removed: new Python processes are not hooked; `hook install` puts it back"


def _state(path: Path, whole: bool) -> str:
    if whole:
        return "in place"
    if path.exists():
        return "damaged; `lens-ship hook install` repairs it"
    return "missing; `lens-ship hook install` puts it in place"


def _wandb_version() -> str:
    try:
        return importlib.metadata.version("wandb")
    except importlib.metadata.PackageNotFoundError:
        return "not installed in this environment"


def _root_state(root: Path) -> str:
    place = root
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    named = root if place == root else f"{root}: {place}"
    if not os.path.isdir(place):
        return f"{named} is no folder; records would be dropped"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{named} is not writable by this user; records would be dropped"
    return f"{root}: {'writable' if place == root else 'made by the first job'}"
