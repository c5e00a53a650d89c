"""Starts the collectors where a process begins to train, whatever tracker it has, and none.

Python runs in launchers, data loaders, compilers of kernels and small scripts, too. None of them
makes an optimizer or joins the ranks of a job. Each training does one of them, so these calls start
the collectors, just before they run: a rank that waits for the others has a log and stacks, too.

torchrun and what is built on it (`accelerate launch`, `dlrover-run`) start the ranks of a node from
one process, which knows the node's rank only then. It outlives its ranks, and so has the last lines
of one that was killed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from spooler import async_exceptions

_MARK = "_lens_ship_original"
# Modules that have taken the function of another one, if they were imported before the hook.
_TAKEN_BY = {
    "torch.distributed.distributed_c10d": ("torch.distributed", "torch.distributed.device_mesh"),
    "jax._src.distributed": ("jax.distributed",),
}


def wrap(module: Any) -> None:
    """Have the calls of this module that begin a training start the collectors."""
    for owner, name, start in _places(module):
        original = vars(owner).get(name)
        if callable(original) and not hasattr(original, _MARK):
            _put(module, owner, name, _starting(start, original))


def unwrap(module: Any) -> None:
    for owner, name, _start in _places(module):
        original = getattr(vars(owner).get(name), _MARK, None)
        if original is not None:
            _put(module, owner, name, original)


def _put(module: Any, owner: Any, name: str, function: Any) -> None:
    """Put a function in the place of the one there, also where other modules have taken that."""
    before = vars(owner)[name]
    for one in (owner, *map(sys.modules.get, _TAKEN_BY.get(module.__name__, ()))):
        if one is not None and vars(one).get(name) is before:
            setattr(one, name, function)


def _places(module: Any) -> list[tuple[Any, str, Callable[..., None]]]:
    """Owner, name and what starts the collectors, of each function of this module."""
    places = {
        "torch.distributed.distributed_c10d": (module, "init_process_group", _start),
        "torch.optim.optimizer": (getattr(module, "Optimizer", None), "__init__", _start),
        "torch.distributed.elastic.agent.server.local_elastic_agent": (
            getattr(module, "LocalElasticAgent", None),
            "_start_workers",
            _start_launcher,
        ),
        "jax._src.distributed": (module, "initialize", _start),
    }
    owner, name, start = places[module.__name__]
    return [] if owner is None else [(owner, name, start)]


def _starting(start: Callable[..., None], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            start(*args, **kwargs)
        except async_exceptions.ours(Exception) as error:
            _report(error)
        return original(*args, **kwargs)

    setattr(call, _MARK, original)
    return call


def _start(*_args: Any, **_kwargs: Any) -> None:
    from spooler.diagnosis.start import start_from_environ

    start_from_environ()


def _start_launcher(_agent: Any, workers: Any, *_args: Any, **_kwargs: Any) -> None:
    """The launcher records as the first of its ranks would."""
    from spooler import config
    from spooler.diagnosis.start import start_from_environ

    first = workers.workers[0]
    config.know(
        RANK=str(first.global_rank),
        LOCAL_RANK="0",
        GROUP_RANK=str(workers.group_rank),
        WORLD_SIZE=str(first.world_size),
        TORCHELASTIC_RUN_ID=str(workers.spec.rdzv_handler.get_run_id()),
    )
    start_from_environ(launcher=True)


def _report(error: Exception) -> None:
    from spooler import stderr

    stderr.report_once(
        "start of the collectors",
        f"lens-ship cannot start the collectors ({type(error).__name__}: {error})."
        " Training continues. Nothing is collected.",
    )
