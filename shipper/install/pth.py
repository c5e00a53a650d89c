"""The files that activate the hook: the `.pth` file of this environment, and a directory to export.

Python runs the `.pth` file of site-packages at its start. A directory on PYTHONPATH has no `.pth`
files, but Python imports `sitecustomize` from there: the exported one runs the line of the `.pth`
file, then the `sitecustomize` that it hides, if there is one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import spooler
from shipper.errors import ShipperError
from spooler import config
from spooler.loglines.pattern import UnusableError, patterns
from spooler.spool.identity import Identity

PTH_NAME = "lens_ship.pth"
# The text of spooler/lens_ship.pth. The build moves that file out of the package, so an installed
# lens-ship cannot read it once `hook uninstall` has deleted it.
PTH_LINE = (
    'import os; os.environ.get("PRIMUS_LENS_WANDB_OUTPUT_PATH") and os.environ.get('
    '"PRIMUS_LENS_WANDB_HOOK", "").strip().lower() not in ("false", "0", "no", "off") and exec('
    r"""'try:\n from importlib.machinery import PathFinder, SourceFileLoader\n"""
    r""" here = PathFinder.find_spec("spooler").submodule_search_locations[0]\n"""
    r""" code = SourceFileLoader("lens_ship_start", here + "/lens_ship_start.py")"""
    r""".get_code("lens_ship_start")\n"""
    r""" ours = {"__name__": "lens_ship_start", "__file__": here + "/lens_ship_start.py"}\n"""
    r""" exec(code, ours)\n ours["start"](here)\nexcept Exception: pass')"""
    "\n"
)
# What the training side imports besides the standard library. What the environment has itself comes
# first, so these are in a directory of their own at the end of the path.
_PACKAGES = ("spooler", "msgpack")
_BELOW = "packages"
_FIRST_LINE = '"""Hooks wandb for lens-ship; written by `lens-ship hook export`."""'
_SITECUSTOMIZE = f"""{_FIRST_LINE}
import os, sys

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "{_BELOW}"))
{PTH_LINE.strip()}


def _run_hidden_sitecustomize():
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.realpath(os.path.dirname(__file__))
    others = [path for path in sys.path if os.path.realpath(path or os.curdir) != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = sys.modules["sitecustomize"] = module_from_spec(spec)
        spec.loader.exec_module(module)


_run_hidden_sitecustomize()
"""
_PROBE = """
import json, sys
from importlib.machinery import PathFinder

found = PathFinder.find_spec("spooler")
waiting = any(hasattr(finder, "is_lens_ship") for finder in sys.meta_path)
print(json.dumps([waiting, found and found.origin]))
"""


class HookError(ShipperError):
    """The `.pth` file or the exported directory cannot be written."""


def report(environ: Mapping[str, str]) -> tuple[list[str], bool]:
    """Lines for people, and whether a Python process started now has the hook and can record."""
    path, root = _pth_path(), environ.get(config.OUTPUT_PATH, "").strip()
    intact, on = _is_intact(path), config.is_hook_on(environ)
    if intact:
        state = "intact"
    elif path.exists():
        state = "damaged, or of another version; `lens-ship hook install` repairs it"
    else:
        state = "missing; `lens-ship hook install` writes it"
    problem = _problem(environ) if intact and root and on else "see above"
    spool_root, drops = _root_state(Path(config.absolute(root))) if root else ("", False)
    active = "active, but records would be dropped: see above" if drops else "active"
    lines = [
        f"activation file   {path}: {state}",
        *_trackers(environ),
        *_patterns(environ),
        *_collectors(environ),
        *_wrong_values(environ),
        f"variable          {config.OUTPUT_PATH} is {root or 'not set: the hook is off'}",
        f"switch            {config.HOOK} is {'on' if on else 'off: the hook is off'}",
        *([f"spool root        {spool_root}"] if root else []),
        f"hook              {f'not active: {problem}' if problem else active}",
    ]
    return lines, not problem and not drops


def _trackers(environ: Mapping[str, str]) -> Iterator[str]:
    """A line for each library that has a hook: its version, and whether the hook is off."""
    for module, hook in _hooks()["REGISTRY"].items():
        library, tracker = module.partition(".")[0], hook.rpartition(".")[2]
        state = _version(library) or "not installed in this environment"
        off = "" if config.is_tracker_on(environ, tracker) else f", off: {config.TRACKERS}"
        yield f"{library:<18}{state}{off}"


def _wrong_values(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable whose value cannot be used, as the job reports it."""
    bad: dict[str, str] = {}
    config.from_environ(environ, bad)
    config.collectors_from_environ(environ, bad)
    config.read(Identity, environ, bad)
    return [f"wrong value       {name} {problem}" for name, problem in bad.items()]


def _hooks() -> dict[str, Any]:
    """What `spooler.hooks` defines; the service does not import it."""
    return runpy.run_path(str(Path(spooler.__file__).parent / "hooks" / "__init__.py"))


def _version(library: str) -> str:
    """The version of an installed library, "" for one that is not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "installed" if find_spec(library) else ""


def _collectors(environ: Mapping[str, str]) -> Iterator[str]:
    """Lines about the collectors: which, what they read, and what starts them here."""
    wanted = config.collectors_from_environ(environ).wanted
    if not wanted:
        yield f"collectors        none: {config.COLLECTORS} names no known collector"
        return
    sources = {"log": config.LOG_FILE, "metric": config.XPU_TIMER_PORT}
    states = []
    for name in sorted(wanted):
        variable = sources.get(name)
        value = environ.get(variable, "") if variable else "of one rank of a node"
        states.append(f"{name} ({value or f'off: {variable} is not set'})")
    yield f"collectors        {', '.join(states)}"
    libraries = dict.fromkeys(module.partition(".")[0] for module in _hooks()["TRAINING"])
    found = {name: version for name in libraries if (version := _version(name))}
    trainings = "".join(f", a training with {name} {found[name]}" for name in found)
    yield f"they start with   a run of a tracker{trainings}"


def _patterns(environ: Mapping[str, str]) -> Iterator[str]:
    """A line about the operator's own patterns of training lines, where there are some."""
    try:
        count = len(patterns(environ.get(config.LOG_PATTERN, "")))
    except UnusableError as error:
        yield f"log pattern       {config.LOG_PATTERN} cannot be used: {error}"
    else:
        if count:
            yield f"log patterns      {count} in {config.LOG_PATTERN}"


def _problem(environ: Mapping[str, str]) -> str:
    """Why a Python process that starts in this folder has no hook, or nothing."""
    probe = (sys.executable, "-c", _PROBE)
    done = subprocess.run(probe, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"{sys.executable} does not start: {done.stderr.strip()}"
    waiting, found = json.loads(done.stdout)
    if found is None:
        return "a new Python process does not find the package spooler, or may not read it"
    if os.path.realpath(found) != os.path.realpath(str(spooler.__file__)):
        return (
            f"`import spooler` finds {found} from this folder, and not {spooler.__file__}. A script"
            " looks in its own folder instead: run this there"
        )
    return "" if waiting else f"a new Python process may not read {Path(found).parent}"


def install() -> str:
    """Write the `.pth` file; return what was done.

    Raises:
        HookError: site-packages is not writable.
    """
    path = _pth_path()
    if _is_intact(path):
        return f"{path} is intact; nothing to do"
    try:
        path.write_text(PTH_LINE, encoding="utf-8")
    except OSError as error:
        raise HookError(
            f"{path}: {error}; nothing was changed. Call spooler.install() at the top of the"
            " training script instead"
        ) from error
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    problem = _problem({**plain, config.OUTPUT_PATH: os.sep, config.HOOK: "true"})
    if problem:
        return f"{path} written, but without PYTHONPATH {problem}"
    return f"{path} written: new Python processes of this environment have the hook"


def uninstall() -> str:
    """Delete the `.pth` file; return what was done.

    Raises:
        HookError: site-packages is not writable.
    """
    path = _pth_path()
    try:
        path.unlink()
    except FileNotFoundError:
        return f"{path} does not exist; nothing to do"
    except OSError as error:
        raise HookError(
            f"{path}: {error}; nothing was changed. {config.HOOK}=false switches a hook off"
        ) from error
    return f"{path} deleted: new Python processes have no hook; `hook install` restores it"


def export(folder: Path) -> str:
    """Write a directory for PYTHONPATH, or replace an earlier export; return what was done.

    Raises:
        HookError: it holds something else, or cannot be written.
    """
    try:
        site = (folder / "sitecustomize.py").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        site = ""
    if os.path.exists(folder) and not site.startswith(_FIRST_LINE):
        raise HookError(f"{folder} exists and is not an exported hook; nothing was changed")
    draft = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, place in _packages().items():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(place, draft / _BELOW / name, ignore=ignored)
        (draft / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except OSError as error:
        raise HookError(
            f"{folder}: {error}; the export is not complete. Give a directory that you may write"
        ) from error
    return (
        f"{folder} written: Python 3.10 or later with PYTHONPATH={folder} has the hook"
        f"\n{_who_is_fast(folder)}"
    )


def _who_is_fast(folder: Path) -> str:
    """Which Pythons can load the compiled part of msgpack that was copied."""
    suffixes = [name.partition(".")[2] for name in os.listdir(folder / _BELOW / "msgpack")]
    compiled = [suffix.removesuffix(".so") for suffix in suffixes if suffix.endswith(".so")]
    slow = "msgpack's Python code, about 30 µs more a step"
    if not compiled:
        return f"msgpack is not compiled here: every Python records with {slow}"
    return f"compiled for {', '.join(compiled)}: any other Python records with {slow}"


def link(folder: Path) -> Path:
    """The same with links to this installation, for this node; the directory, below `folder`.

    Raises:
        HookError: this installation is not complete.
        OSError: it cannot be written.
    """
    packages = _packages()
    places = "".join([_SITECUSTOMIZE, *packages.values()])
    made = folder / hashlib.sha256(os.fsencode(places)).hexdigest()[:12]
    if made.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder))
    (draft / _BELOW).mkdir()
    for name, place in packages.items():
        (draft / _BELOW / name).symlink_to(place)
    (draft / "sitecustomize.py").write_text(_SITECUSTOMIZE, encoding="utf-8")
    try:
        draft.rename(made)
    except OSError:
        shutil.rmtree(draft)  # another process was first
        if not made.exists():
            raise
    return made


def is_activated_for(command: str) -> bool:
    """Whether a command belongs to this environment, and its Python has the hook by itself."""
    found = shutil.which(command)
    here = os.path.realpath(sysconfig.get_paths()["scripts"])
    return (
        found is not None
        and os.path.realpath(os.path.dirname(found)) == here
        and _is_intact(_pth_path())
    )


def _packages() -> dict[str, str]:
    """Where the packages of the training side are."""
    found = {}
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise HookError(f"{name} is not installed here; nothing was written")
        found[name] = spec.submodule_search_locations[0]
    return found


def _pth_path() -> Path:
    return Path(sysconfig.get_paths()["purelib"]) / PTH_NAME


def _is_intact(path: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8") == PTH_LINE
    except (OSError, UnicodeDecodeError):
        return False


def _root_state(root: Path) -> tuple[str, bool]:
    """For people, and whether records would be dropped there."""
    nearest = root
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    named = root if nearest == root else f"{root}: {nearest}"
    if not os.path.isdir(nearest):
        return f"{named} is not a directory; records would be dropped", True
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{named} is not writable by this user; records would be dropped", True
    return f"{root}: {'writable' if nearest == root else 'the first job creates it'}", False
