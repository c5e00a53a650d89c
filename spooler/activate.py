"""What every interpreter start runs when the hook is wanted: wait for `import wandb`, then hook it.

Rules: nothing is imported here but what the interpreter has loaded anyway, nothing is opened, and
nothing escapes; a fault of ours must not break the start of an unrelated program.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as in `spooler`
if TYPE_CHECKING:
    from typing import Any

_TARGET = "wandb"


class _Waiting:
    """A meta path finder that steps in once, for wandb, and lets the real finders find it."""

    _busy = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return wandb's own spec with a loader that calls the hook after wandb has run."""
        if name != _TARGET or self._busy:
            return None
        self._busy = True
        try:
            from importlib.util import find_spec

            spec = find_spec(name)
        finally:
            self._busy = False
        if spec is None or not hasattr(spec.loader, "exec_module"):
            return None
        spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """wandb's own loader in all but one thing: when the module has run, it is hooked."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: Any) -> Any:
        """As the real loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        """Run the module as the real loader does, give it back its loader, then hook it."""
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        deactivate()
        _hook(module)


def activate() -> None:
    """Hook wandb now if it is imported, else as soon as it is."""
    module = sys.modules.get(_TARGET)
    if module is None:
        if not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Waiting())
    else:
        _hook(module)


def deactivate() -> None:
    """Stop waiting for wandb."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Waiting)]


def install() -> None:
    """Hook wandb by hand: now if it is imported, else as soon as it is.

    The same as starting Python with `PRIMUS_LENS_WANDB_OUTPUT_PATH` set, for environments where
    the `.pth` file is not in place. Does nothing where `PRIMUS_LENS_WANDB_HOOK` is off.
    """
    import os

    from spooler import config, stderr

    if config.is_hook_on(os.environ):
        activate()
    else:
        stderr.debug(f"{config.HOOK} is off: wandb is not hooked")


def uninstall() -> None:
    """Take the hook off again; what is recorded stays recorded."""
    deactivate()
    module = sys.modules.get(_TARGET)
    if module is not None:
        from spooler.hooks.wandb import unwrap

        unwrap(module)


def _hook(module: Any) -> None:
    try:
        from spooler.hooks.wandb import wrap

        wrap(module)
    except Exception as error:
        from spooler import async_exceptions

        if async_exceptions.is_async(error):
            raise
        sys.stderr.write(
            f"[Primus Lens WandB] lens-ship could not hook wandb ({type(error).__name__}: {error});"
            " training goes on, nothing is recorded\n"
        )
