"""The runs of an MLflow server that records belong to: found by tags, created once.

Each rank has a run of its own, as MLflow cannot tell who has logged a value. A rank that is the
sole writer of its job continues the run of the sole writer before it: after a restart of another
size, the last rank is another one.

Creating a run is not idempotent, so it is looked for each time before. What was found is remembered
until the server says otherwise. Spools of one run wait for each other meanwhile.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from shipper.sinks.mlflow.classify import ALREADY_EXISTS, NO_RUN, RUN_DELETED
from shipper.sinks.mlflow.client import MlflowClient, Refused
from shipper.sinks.mlflow.encode import (
    RANK_TAG,
    RUN_TAG,
    MetricKeys,
    StoredRun,
    filters,
    pairs,
    run_key,
)
from shipper.sinks.mlflow.plan import RunBlock, RunItem
from shipper.sinks.outcome import Disposition, Outcome, Reason, retry
from shipper.sinks.values import clean_text

DEFAULT_EXPERIMENT = "Default"
DELETED_SECONDS = 60.0  # for which the server is not asked again about a deleted run
_KEPT = 4096  # runs
_EXPERIMENT_CHARACTERS, _NAME_CHARACTERS = 500, 250  # of names, at most
_PAGE = 100  # experiments in one search
# The id of a run that MLflow itself has given: the job logs to MLflow too.
_OWN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(kw_only=True)
class Run:
    """A run as far as it is known here; `id` is "" until it is found or created."""

    id: str = ""
    names: MetricKeys = field(default_factory=MetricKeys)
    deleted: Outcome | None = None
    deleted_until: float = 0.0  # monotonic
    lock: threading.Lock = field(default_factory=threading.Lock)


class Runs:
    """All runs at one server. Safe for several threads."""

    def __init__(self, client: MlflowClient, experiment: str) -> None:
        self._client = client
        self._experiment = experiment
        self._kept: dict[tuple[str, int], Run] = {}  # run of the tracker, and rank

    def find(self, items: Sequence[RunItem | RunBlock], rank: int) -> Run:
        """The run that these items of a rank belong to; created where there is none.

        Raises:
            Refused: it was deleted (`RUN_DELETED`), or a request failed.
        """
        if len(self._kept) >= _KEPT:
            oldest, *_ = self._kept  # for which no thread waits
            self._kept.pop(oldest, None)
        run = self._kept.setdefault((items[0].run, rank), Run())
        with run.lock:
            if run.deleted is not None and time.monotonic() < run.deleted_until:
                raise Refused(run.deleted)
            if not run.id:
                try:
                    self._look_up(run, items, rank)
                except Refused as refusal:
                    deleted = refusal.outcome.reason == RUN_DELETED
                    run.deleted = refusal.outcome if deleted else None
                    run.deleted_until = time.monotonic() + DELETED_SECONDS
                    if refusal.outcome.disposition is Disposition.SPLIT:
                        raise _no_fault_of_data(refusal) from refusal
                    raise
        return run

    def forget(self, run: Run, items: Sequence[RunItem | RunBlock], rank: int) -> None:
        """The server does not know `run` any more. What was found since by another spool stays."""
        key = (items[0].run, rank)
        with run.lock:
            if self._kept.get(key) is run:
                del self._kept[key]

    # --- looking ----------------------------------------------------------------------------------

    def _look_up(self, run: Run, items: Sequence[RunItem | RunBlock], rank: int) -> None:
        begun = next((item.begun for item in items if item.begun is not None), None)
        name = self._experiment or (begun.project or DEFAULT_EXPERIMENT if begun else "")
        name = clean_text(name)[:_EXPERIMENT_CHARACTERS]
        experiment = self._experiment_id(name) if name else None
        key = run_key(items[0].run)
        found = self._of_mlflow(items[0].run)
        if found is None and experiment is not None:
            found = self._search([experiment], key, rank)
        if found is None and begun is None:
            searched = (self._search(ids, key, rank) for ids in self._everywhere())
            found = next(filter(None, searched), None)
        if found is None:
            experiment = experiment or self._create_experiment(name or DEFAULT_EXPERIMENT)
            title = clean_text((begun.name if begun else "") or items[0].run)[:_NAME_CHARACTERS]
            tags = {RUN_TAG: key, RANK_TAG: str(rank), "mlflow.source.name": "lens-ship"}
            body = {"experiment_id": experiment, "run_name": title, "start_time": items[0].time}
            found = self._client.create_run({**body, "tags": pairs(tags)})
        run.names.learn(found.keys, found.tags)
        run.id = found.id

    def _of_mlflow(self, run: str) -> StoredRun | None:
        """The run of this id, if the job itself logs to this server."""
        if not _OWN_ID.fullmatch(run):
            return None
        try:
            return _chosen([self._client.run(run)])
        except Refused as refusal:
            if refusal.outcome.reason != NO_RUN:
                raise
            return None

    def _search(self, experiments: Sequence[str], key: str, rank: int) -> StoredRun | None:
        """The oldest run of this rank that is not deleted; None where there is none."""
        body = {"experiment_ids": experiments, "run_view_type": "ALL", "max_results": 10}
        for words in filters(key, str(rank)):
            found = self._client.search({**body, "filter": words})
            if found:
                return _chosen(found)
        return None

    def _everywhere(self) -> Iterator[list[str]]:
        """The ids of all experiments, for a run whose first record has not been read."""
        token, more = "", True
        while more:
            body = {"max_results": _PAGE, "view_type": "ALL", "page_token": token}
            ids, token = self._client.experiments(body)
            if ids:
                yield ids
            more = bool(token)

    # --- experiments ------------------------------------------------------------------------------

    def _experiment_id(self, name: str) -> str | None:
        try:
            experiment, deleted = self._client.experiment(name)
        except Refused as refusal:
            if refusal.outcome.reason != NO_RUN:
                raise
            return None
        if deleted:
            detail = f"the experiment {name!r} is deleted. Restore it, or give another name"
            word = Reason.EXPERIMENT_DELETED.word
            raise Refused(retry(word, detail, needs_operator=True))
        return experiment

    def _create_experiment(self, name: str) -> str:
        try:
            return self._client.create_experiment(name)
        except Refused as refusal:
            if refusal.outcome.reason != ALREADY_EXISTS:
                raise
            found = self._experiment_id(name)
            if found is None:
                raise
            return found


def _chosen(found: Sequence[StoredRun]) -> StoredRun:
    """Of runs the oldest that is not deleted."""
    active = [one for one in found if not one.deleted]
    if active:
        return min(active, key=lambda one: (one.start, one.id))
    detail = f"the run {found[0].id} is deleted"
    raise Refused(Outcome(disposition=Disposition.PERMANENT, reason=RUN_DELETED, detail=detail))


def _no_fault_of_data(refusal: Refused) -> Refused:
    """The server refuses an experiment or a run by its name: Databricks wants it to be a path."""
    detail = f"{refusal.outcome.detail}: set the option experiment"
    return Refused(retry(Reason.BAD_REQUEST.word, detail, needs_operator=True))
