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
from typing import Any

from shipper.sinks.mlflow.classify import ALREADY_EXISTS, NO_RUN, RUN_DELETED
from shipper.sinks.mlflow.client import MlflowClient, Refused
from shipper.sinks.mlflow.encode import (
    RANK_TAG,
    RUN_TAG,
    MetricKeys,
    filters,
    pairs,
    run_key,
    unpaired,
)
from shipper.sinks.mlflow.plan import RunItem
from shipper.sinks.outcome import Disposition, Outcome, Reason, retry

DEFAULT_EXPERIMENT = "Default"
DELETED_SECONDS = 60.0  # for which the server is not asked again about a deleted run
_KEPT = 4096  # runs
_IDS_AT_ONCE = 100  # experiments in one search
_PAGE = 200
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

    def find(self, items: Sequence[RunItem], rank: int) -> Run:
        """The run that these items of a rank belong to; created where there is none.

        Raises:
            Refused: it was deleted (`RUN_DELETED`), or a request failed.
        """
        if len(self._kept) >= _KEPT:
            self._kept.clear()
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
                    raise
        return run

    def forget(self, items: Sequence[RunItem], rank: int) -> None:
        """The server does not know it any more."""
        self._kept.pop((items[0].run, rank), None)

    # --- looking ----------------------------------------------------------------------------------

    def _look_up(self, run: Run, items: Sequence[RunItem], rank: int) -> None:
        begun = next((item.begun for item in items if item.begun is not None), None)
        name = self._experiment or (begun.project if begun else "")
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
            title = (begun.name if begun else "") or items[0].run
            tags = {RUN_TAG: key, RANK_TAG: str(rank), "mlflow.source.name": "lens-ship"}
            body = {"experiment_id": experiment, "run_name": title, "start_time": items[0].time}
            found = self._client.post("runs/create", {**body, "tags": pairs(tags)})["run"]
        _learn(run, found)

    def _of_mlflow(self, run: str) -> Any:
        """The run of this id, if the job itself logs to this server."""
        if not _OWN_ID.fullmatch(run):
            return None
        try:
            return _chosen([self._client.get("runs/get", run_id=run)["run"]])
        except Refused as refusal:
            if refusal.outcome.reason != NO_RUN:
                raise
            return None

    def _search(self, experiments: Sequence[str], key: str, rank: int) -> Any:
        """The oldest run of this rank that is not deleted; None where there is none."""
        body = {"experiment_ids": experiments, "run_view_type": "ALL", "max_results": 10}
        for words in filters(key, str(rank)):
            answer = self._client.post("runs/search", {**body, "filter": words})
            if answer.get("runs"):
                return _chosen(answer["runs"])
        return None

    def _everywhere(self) -> Iterator[list[str]]:
        """The ids of all experiments, for a run whose beginning is not at hand."""
        token, more = "", True
        while more:
            body = {"max_results": _PAGE, "view_type": "ALL", "page_token": token}
            answer = self._client.post("experiments/search", body)
            ids = [one["experiment_id"] for one in answer.get("experiments") or []]
            yield from (ids[at : at + _IDS_AT_ONCE] for at in range(0, len(ids), _IDS_AT_ONCE))
            token = answer.get("next_page_token") or ""
            more = bool(token)

    # --- experiments ------------------------------------------------------------------------------

    def _experiment_id(self, name: str) -> str | None:
        try:
            answer = self._client.get("experiments/get-by-name", experiment_name=name)
        except Refused as refusal:
            if refusal.outcome.reason != NO_RUN:
                raise
            return None
        found = answer["experiment"]
        if found.get("lifecycle_stage") == "deleted":
            detail = f"the experiment {name!r} is deleted. Restore it, or give another name"
            word = Reason.EXPERIMENT_DELETED.word
            raise Refused(retry(word, detail, needs_operator=True))
        return str(found["experiment_id"])

    def _create_experiment(self, name: str) -> str:
        try:
            return str(self._client.post("experiments/create", {"name": name})["experiment_id"])
        except Refused as refusal:
            if refusal.outcome.reason != ALREADY_EXISTS:
                raise
            found = self._experiment_id(name)
            if found is None:
                raise
            return found


def _chosen(found: Sequence[Any]) -> Any:
    """Of runs the oldest that is not deleted."""
    active = [one for one in found if one["info"].get("lifecycle_stage") != "deleted"]
    if not active:
        detail = f"the run {found[0]['info']['run_id']} is deleted"
        raise Refused(Outcome(disposition=Disposition.PERMANENT, reason=RUN_DELETED, detail=detail))
    return min(active, key=_age)


def _age(found: Any) -> tuple[int, str]:
    return int(found["info"].get("start_time") or 0), found["info"]["run_id"]


def _learn(run: Run, found: Any) -> None:
    data = found.get("data") or {}
    run.names.learn((one["key"] for one in data.get("metrics") or ()), unpaired(data.get("tags")))
    run.id = found["info"]["run_id"]
