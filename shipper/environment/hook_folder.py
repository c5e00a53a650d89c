"""Makes a folder for PYTHONPATH that hooks any Python: for images that cannot be changed.

Python runs no `.pth` file of a folder on PYTHONPATH, but it imports `sitecustomize` from there.
Ours does what the `.pth` file does and then runs the one that it hides, if there is one.
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from shipper.environment.activation import PTH_LINE
from shipper.errors import ShipperError

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


class ExportError(ShipperError):
    """The folder cannot be written, or is somebody else's."""


def export(folder: Path) -> str:
    """Write `folder`, or replace one that was written before; return what was done.

    Raises:
        ExportError: it holds something else, or cannot be written.
    """
    if folder.exists() and not _is_ours(folder):
        raise ExportError(f"{folder} is there and is none of ours; nothing was changed")
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
        raise ExportError(f"{folder}: {error}; no Python is hooked by it") from error
    return f"{folder} written: Python 3.10 or later with PYTHONPATH={folder} is hooked"


def _is_ours(folder: Path) -> bool:
    try:
        return (folder / "sitecustomize.py").read_text(encoding="utf-8").startswith(_FIRST_LINE)
    except (OSError, UnicodeDecodeError):
        return False


def _place_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ExportError(f"{package} is not installed here; nothing was written")
    return Path(spec.submodule_search_locations[0])
