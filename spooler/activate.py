"""What every interpreter start runs when hooks are wanted: wait for a tracker's import, then hook.

Rules: nothing is imported here but what the interpreter has loaded anyway, nothing is opened, and
nothing escapes. A fault of ours must not break the start of an unrelated program.
"""

from __future__ import annotations

import sys

from spooler.hooks import REGISTRY

TYPE_CHECKING = False  # as in `spooler`
if TYPE_CHECKING:
    from typing import Any


class _Finder:
    """A meta path finder that lets the real finders find a tracker, and hooks what they find."""

    def __init__(self) -> None:
        self._finding: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return a tracker's own spec with a loader that hooks the module once it has run."""
        if name not in REGISTRY or name in self._finding:
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
        if sys.modules.keys() >= REGISTRY.keys():
            deactivate()
        _wrap(module.__name__, module)


def activate() -> None:
    """Hook every tracker of the registry: now if it is imported, else as soon as it is."""
    waiting = False
    for name in REGISTRY:
        module = sys.modules.get(name)
        if module is None:
            waiting = True
        else:
            _wrap(name, module)
    if waiting and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def deactivate() -> None:
    """Stop waiting for imports."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]


def install() -> None:
    """Install the hooks by hand: now if a tracker is imported, else as soon as it is.

    The same as starting Python with `PRIMUS_LENS_WANDB_OUTPUT_PATH` set, for environments without
    the `.pth` file. Does nothing if `PRIMUS_LENS_WANDB_HOOK` is off.
    """
    import os

    from spooler import config, stderr

    if config.is_hook_on(os.environ):
        activate()
    else:
        stderr.debug(f"{config.HOOK} is off: nothing is hooked")


def uninstall() -> None:
    """Remove the hooks; what is recorded stays recorded."""
    deactivate()
    for name in REGISTRY:
        module = sys.modules.get(name)
        if module is not None:
            _hook(name).unwrap(module)


def _hook(name: str) -> Any:
    from importlib import import_module

    return import_module(REGISTRY[name])


def _wrap(name: str, module: Any) -> None:
    try:
        _hook(name).wrap(module)
    except Exception as error:
        from spooler import async_exceptions

        if async_exceptions.is_async(error):
            raise
        sys.stderr.write(
            f"[Primus Lens WandB] lens-ship cannot hook {name} ({type(error).__name__}: {error})."
            " Training continues. Nothing is recorded.\n"
        )
