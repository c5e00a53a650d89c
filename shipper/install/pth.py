"""The `.pth` file that activates the hook: where it is, whether it is whole, how to repair it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sysconfig
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import spooler
from shipper.errors import ShipperError
from spooler import config

PTH_NAME = "lens_ship.pth"
PTH_LINE = Path(spooler.__file__).with_name(PTH_NAME).read_text(encoding="utf-8")


_FIRST_LINE = '"""Hooks wandb for lens-ship; written by `lens-ship hook export`."""'
_SITECUSTOMIZE = f"""{_FIRST_LINE}
import sys

try:
    {PTH_LINE.strip()}
except Exception as error:
    sys.stderr.write(f"[Primus Lens WandB] not hooked ({{type(error).__name__}}: {{error}})\\n")


def _run_the_hidden_one():
    import os
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.realpath(os.path.dirname(__file__))
    others = [path for path in sys.path if os.path.realpath(path or os.curdir) != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


_run_the_hidden_one()
"""
# What a training process imports of ours: the standard library has the rest.
_PACKAGES = ("spooler", "msgpack")


class HookError(ShipperError):
    """The file or folder that activates the hook cannot be written."""


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


def export(folder: Path) -> str:
    """Write `folder`, or replace one that was written before; return what was done.

    Raises:
        HookError: it holds something else, or cannot be written.
    """
    if folder.exists() and not _is_ours(folder):
        raise HookError(f"{folder} is there and is none of ours; nothing was changed")
    draft = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name in _PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(_place_of(name), draft / name, ignore=ignored)
        (draft / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except OSError as error:
        raise HookError(f"{folder}: {error}; no Python is hooked by it") from error
    return f"{folder} written: Python 3.10 or later with PYTHONPATH={folder} is hooked"


def _is_ours(folder: Path) -> bool:
    try:
        return (folder / "sitecustomize.py").read_text(encoding="utf-8").startswith(_FIRST_LINE)
    except (OSError, UnicodeDecodeError):
        return False


def _place_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise HookError(f"{package} is not installed here; nothing was written")
    return Path(spec.submodule_search_locations[0])
