"""The hook on `SummaryWriter`, of `torch.utils.tensorboard` and of tensorboardX.

Wrapped on the class are `add_scalar` and `add_scalars`, and `__init__`, `close` and `add_hparams`,
which say which writers there are. Each call is recorded as an open part of its step before it
returns: a buffer would lose what is in it.

TensorBoard knows directories and no runs. All writers of a process are one run, whose id is that of
the job. A directory after the first one goes before the names, as TensorBoard shows it. Where wandb
copies TensorBoard's steps (`sync_tensorboard=True`), they are steps of the run of wandb.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from spooler.hooks import run_id
from spooler.hooks.guard import guarded
from spooler.hooks.run_tracker import runs
from spooler.hooks.tracked_run import TrackedRun
from spooler.hooks.wandb import mirrored_run
from spooler.hooks.wrappers import unwrap_functions, wrap_end, wrap_functions, wrap_log

_STATE = "_lens_ship_state"  # of a writer: what goes before its names, None if it writes nothing
# Megatron-LM writes each value a second time, against the samples seen.
_OF_SAMPLES = " vs samples"


def wrap(module: Any) -> None:
    wrappers = {
        "__init__": _wrap_init,
        "add_scalar": functools.partial(wrap_log, _Scalar),
        "add_scalars": functools.partial(wrap_log, _Scalars),
        "add_hparams": _wrap_add_hparams,
        "close": functools.partial(wrap_end, _close),
    }
    wrap_functions([(module.SummaryWriter, name) for name in wrappers], wrappers)


def unwrap(module: Any) -> None:
    names = ("__init__", "add_scalar", "add_scalars", "add_hparams", "close")
    unwrap_functions([(module.SummaryWriter, name) for name in names])


class _TensorBoardRun(TrackedRun):
    """All writers of this process."""

    tracker = "tensorboard"

    def __init__(self, directory: str, module: str) -> None:
        place = os.path.abspath(directory)
        super().__init__(run_id.stable(os.environ, "tb", place))
        self.directory = directory  # of the first writer
        self.open: set[int] = set()  # id of each writer that is not closed
        self.hparams: dict[str, Any] = {}
        self._package = sys.modules.get(module.partition(".")[0])
        if self._package is sys.modules.get("torch"):
            self._package = sys.modules.get("tensorboard")

    def facts(self) -> dict[str, Any]:
        """The directory stands for the name."""
        version = str(getattr(self._package, "__version__", ""))
        return {"name": os.path.basename(self.directory), "tracker_version": version}

    def config(self) -> Mapping[str, Any]:
        return self.hparams


class _Current(threading.local):
    """The writer whose `add_hparams` runs in this thread; it logs to a writer of its own."""

    writer: Any = None


_inside = _Current()
_run: _TensorBoardRun | None = None


# --- what is recorded -----------------------------------------------------------------------------


class _Calls:
    """What `wrap_log` asks of a hook."""

    @staticmethod
    def before_log(writer: Any) -> bool:
        return True

    @staticmethod
    def known_run(writer: Any) -> TrackedRun | None:
        return _run


class _Scalar(_Calls):
    @staticmethod
    def observe_log(
        writer: Any,
        _before: bool,
        tag: Any,
        scalar_value: Any,
        global_step: Any = None,
        walltime: Any = None,
        *_more: Any,
        **_named: Any,
    ) -> None:
        """One `add_scalar`; further arguments say how TensorBoard shows it."""
        _record(writer, {str(tag): scalar_value}, global_step, walltime)


class _Scalars(_Calls):
    @staticmethod
    def observe_log(
        writer: Any,
        _before: bool,
        main_tag: Any,
        tag_scalar_dict: Mapping[Any, Any],
        global_step: Any = None,
        walltime: Any = None,
    ) -> None:
        """One `add_scalars`, which does not pass through `add_scalar`."""
        values = {f"{main_tag}/{tag}": value for tag, value in tag_scalar_dict.items()}
        _record(writer, values, global_step, walltime)


def _record(writer: Any, values: dict[str, Any], step: Any, walltime: Any) -> None:
    writer = _inside.writer or writer
    if _STATE not in writer.__dict__ or _run is None or _run.finished:
        _open(writer)
    tracked, prefix = mirrored_run() or _run, writer.__dict__[_STATE]
    if tracked is None or prefix is None:
        return
    if prefix:
        values = {f"{prefix}{name}": value for name, value in values.items()}
    at = None if walltime is None else float(walltime)
    if step is None:  # TensorBoard shows all of these at step 0
        runs.log_unless_led(tracked, 0, True, values, False, at=at)
    elif next(iter(values), "").endswith(_OF_SAMPLES):
        # A part of the present step, and of a row whose step is the number of samples.
        axes = {"samples": [int(step), [*values, "samples"]]}
        runs.log_unless_led(tracked, tracked.last_step or 0, False, values, True, at=at, axes=axes)
    else:
        runs.log_unless_led(tracked, int(step), False, values, True, at=at)


def _open(writer: Any) -> None:
    """A writer has been made, or is used after its run has ended, or was made before the hook."""
    global _run
    if not getattr(writer, "_write_to_disk", True):
        writer.__dict__[_STATE] = None  # of tensorboardX, in ranks that are to write nothing
        return
    given = getattr(writer, "log_dir", None) or getattr(writer, "logdir", None) or ""
    directory = os.path.normpath(os.fspath(given))
    if _run is None or _run.finished:
        first = directory if _run is None else _run.directory
        _run = _TensorBoardRun(first, type(writer).__module__)
    _run.open.add(id(writer))
    writer.__dict__[_STATE] = _prefix(directory, _run.directory)
    runs.expect(_run)


def _prefix(directory: str, first: str) -> str:
    """What tells the names of a directory from those of the first one."""
    if directory == first:
        return ""
    common = os.path.commonpath([os.path.abspath(directory), os.path.abspath(first)])
    below = os.path.relpath(directory, common)
    return f"{os.path.basename(directory) if below == os.curdir else below}/"


# --- wrappers -------------------------------------------------------------------------------------


def _wrap_init(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - its name is seen
        original(self, *args, **kwargs)
        if _inside.writer is None:
            guarded(_open, self)

    return __init__


def _close(writer: Any) -> None:
    if _run is not None and id(writer) in _run.open:
        _run.open.discard(id(writer))
        if not _run.open:
            runs.finish(_run)


def _wrap_add_hparams(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def add_hparams(self: Any, *args: Any, **kwargs: Any) -> Any:
        outer, _inside.writer = _inside.writer, self
        try:
            return original(self, *args, **kwargs)
        finally:
            _inside.writer = outer
            guarded(_keep_hparams, kwargs.get("hparam_dict") or next(iter(args), None))

    return add_hparams


def _keep_hparams(given: Any) -> None:
    if _run is not None and isinstance(given, Mapping):
        _run.hparams.update(given)
        runs.change_config(_run)
