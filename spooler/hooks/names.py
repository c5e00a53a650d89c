"""Decides whether the rank or the run is put before the names of a run's values. Pure.

The rows of some receivers belong to a workload: all of its ranks and runs share them. For those the
service puts `rank<R>/` before the names of ranks other than 0, and `run-<ID>/` where the training
process says so. Only that process knows its framework and the runs that it has begun:

- A rank that is the sole writer of its job needs no `rank<R>/`: no other rank has these names.
- A run that shares its steps with another run of the workload needs `run-<ID>/`. A restart under a
  new id does not: it continues the curves of the run before.

To add a rule, add a line to `SOLE_WRITERS` or `SEPARATE_RUNS`. What no rule knows stays as it was:
a rank has its prefix, a run has none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from spooler.config import RUN_PREFIX, SOLE_WRITER


@dataclass(frozen=True, kw_only=True)
class Job:
    """What rules may look at."""

    rank: int = 0  # over the whole job
    world_size: int = 0  # 0: unknown
    modules: Mapping[str, object] = field(default_factory=dict)  # loaded ones
    config: Mapping[str, Any] = field(default_factory=dict)  # of the run
    sweep: str = ""  # its id
    beside: bool = False  # another run of this process is logging
    repeats: bool = False  # another run of this process has logged this step, or later ones
    alone: bool = False  # the run has lines that one rank of the job prints

    @property
    def is_last(self) -> bool:
        """Whether this is the last rank of several."""
        return self.rank > 0 and self.rank == self.world_size - 1

    def has(self, module: str, *names: str) -> bool:
        """Whether a module is loaded, and one of these attributes of it is set."""
        found = self.modules.get(module)
        if found is None or not names:
            return found is not None
        return any(vars(found).get(name) is not None for name in names)

    def setting(self, *path: str) -> Any:
        """A value of the configuration, None if it has none."""
        found: Any = self.config
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


class NameRule(NamedTuple):
    """A reason, as the user reads it, and when it counts."""

    reason: str
    holds: Callable[[Job], Any]


class Names(NamedTuple):
    """The decision. `reason` is empty where no rule has held."""

    sole_writer: bool = False
    run_prefix: bool = False
    reason: str = ""


_MEGATRON = ("megatron.training.global_vars", "_GLOBAL_WANDB_WRITER", "_GLOBAL_TENSORBOARD_WRITER")
_PRIMUS = ("primus.backends.megatron.training.global_vars", "_GLOBAL_MLFLOW_WRITER")


def _last_stage(job: Job) -> int | None:
    """The first rank of the last pipeline stage, by torchtitan's configuration."""
    for section in ("parallelism", "experimental"):
        stages = job.setting(section, "pipeline_parallel_degree")
        if isinstance(stages, int) and 1 < stages <= job.world_size:
            return job.world_size // stages * (stages - 1)
    return None


# Each proves that the framework itself has begun the run, by its configuration or its writer: a
# program that only uses a part of the framework may log on every rank.
SOLE_WRITERS = (
    NameRule(
        "Megatron-LM logs on the last rank only",
        lambda job: job.is_last and job.has("megatron.training") and job.setting("wandb_project"),
    ),
    NameRule(
        "Megatron-LM logs on the last rank only", lambda job: job.is_last and job.has(*_MEGATRON)
    ),
    NameRule("Primus logs on the last rank only", lambda job: job.is_last and job.has(*_PRIMUS)),
    NameRule(
        "Megatron-Bridge logs on the last rank only",
        lambda job: (
            job.is_last and job.has("megatron.bridge") and job.setting("logger", "wandb_project")
        ),
    ),
    NameRule(
        "torchtitan logs on the first rank of the last pipeline stage only",
        lambda job: (
            job.has("torchtitan")
            and job.setting("metrics", "save_for_all_ranks") is False
            and job.rank == _last_stage(job)
        ),
    ),
    NameRule("one rank of the job prints these lines", lambda job: job.alone),
)
SEPARATE_RUNS = (
    NameRule("the run is a trial of a sweep", lambda job: job.sweep),
    NameRule("another run of this process logs at the same time", lambda job: job.beside),
    NameRule("an earlier run of this process has logged the same steps", lambda job: job.repeats),
)


def decide(job: Job, sole_writer: bool | None = None, run_prefix: bool | None = None) -> Names:
    """The names of a run; `sole_writer` and `run_prefix` are what the user has chosen."""
    sole, why_sole = sole_writer, f"{SOLE_WRITER} is set"
    if sole is None:
        sole, why_sole = _first(SOLE_WRITERS, job) if job.rank else (False, "")
    apart, why_apart = run_prefix, f"{RUN_PREFIX} is set"
    if apart is None:
        apart, why_apart = _first(SEPARATE_RUNS, job)
    return Names(sole, apart, ", ".join(filter(None, (why_sole, why_apart))))


def _first(rules: tuple[NameRule, ...], job: Job) -> tuple[bool, str]:
    return next(((True, rule.reason) for rule in rules if rule.holds(job)), (False, ""))
