"""What every interpreter start runs when hooks are wanted: wait for a tracker, then hook it.

The `.pth` file runs this file by its path. The package `spooler` is imported after the tracker, and
only if the name is free: a module of the program's own with that name keeps its place.

Rules: nothing is imported but what the interpreter has loaded anyway, nothing is opened, and
nothing escapes. Any Python 3 can read it.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in `spooler`
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

_OUTPUT_PATH = "PRIMUS_LENS_WANDB_OUTPUT_PATH"


class _Finder:
    """A meta path finder that lets the real finders find a tracker, and hooks what they find."""

    is_lens_ship = True

    def __init__(self, trackers: Iterable[str]) -> None:
        self._trackers = trackers
        self._finding: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return a tracker's own spec with a loader that hooks the module once it has run."""
        if name not in self._trackers or name in self._finding:
            return None
        self._finding.add(name)
        try:
            from importlib.util import find_spec

            spec = find_spec(name)
        finally:
            self._finding.discard(name)
        if spec is None or not hasattr(spec.loader, "exec_module"):
            return None
        spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """The module's own loader in all but one thing: when the module has run, it is hooked."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """Run the module, give it back its loader, then hook it."""
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        try:
            problem = _problem()
            if not problem:
                from importlib import import_module

                import_module("spooler.activate").wrap(module.__name__, module)
        except Exception as error:
            async_exceptions = sys.modules.get("spooler.async_exceptions")
            if async_exceptions is not None and async_exceptions.is_async(error):
                raise  # it is the program's
            problem = f"{type(error).__name__}: {error}"
        if problem:
            sys.stderr.write(
                f"[Primus Lens WandB] lens-ship cannot hook {module.__name__}: {problem}."
                " Training continues. Nothing is recorded.\n"
            )


def wait(trackers: Iterable[str]) -> None:
    """Hook each tracker whenever it is imported."""
    stop_waiting()
    sys.meta_path.insert(0, _Finder(trackers))


def stop_waiting() -> None:
    sys.meta_path[:] = [one for one in sys.meta_path if not hasattr(one, "is_lens_ship")]


def settle_root() -> None:
    """Make the spool root absolute: the program and its children may go to another folder."""
    given = os.environ.get(_OUTPUT_PATH, "").strip()
    root = os.path.expanduser(given)
    if not given or (given == root and os.path.isabs(root)):
        return
    try:
        root = os.path.abspath(root)
    except OSError:  # the current folder was removed
        return
    os.environ[_OUTPUT_PATH] = root


def start(here: str) -> None:
    """Begin, run by the `.pth` file; `here` is the folder of the package."""
    from importlib.machinery import SourceFileLoader

    # The registry of the hooks, without the package around it.
    hooks: dict[str, Any] = {"__name__": "lens_ship_hooks"}
    code = SourceFileLoader("lens_ship_hooks", here + "/hooks/__init__.py")
    exec(code.get_code("lens_ship_hooks"), hooks)  # type: ignore[arg-type]
    settle_root()
    wait(hooks["awaited"](os.environ))


def _problem() -> str:
    """Why ours cannot be imported here, or nothing."""
    if sys.version_info < (3, 10):  # noqa: UP036 - an exported hook may be given to any Python
        version = ".".join(map(str, sys.version_info[:2]))
        return f"it needs Python 3.10 or later, and this is {version}"
    found = sys.modules.get("spooler")
    origin = getattr(found, "__file__", None)
    if found is None:
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec("spooler")
        origin = spec and spec.origin
    here = os.path.dirname(os.path.realpath(__file__))
    if origin is None or os.path.dirname(os.path.realpath(origin)) != here:
        return f"`import spooler` does not find {here}, but {origin}"
    return ""
