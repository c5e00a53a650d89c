"""The way of a POST through the receiver: decode, validate, resolve, store, answer.

Rules:

* The order of refusals: a body that does not decode, no ids, no workload behind them. Until
  then nothing is written but the line in ``request``.
* A ``workload_uid`` is taken as it is, known or not. Without one the ``pod_name`` must be
  known, and the data is processed for every workload that owns the pod.
* Steps are written one by one: a failed one is counted and the others stay. A workload has
  failed when one of its steps has; the request has failed when all its workloads have.
* A batch is always answered 200; only its results tell what became of the parts.
* An answer is given only after the commit.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.kit.processor import answers, rows
from tests.kit.processor.answers import Reply
from tests.kit.processor.errors import InvalidRequest, StoreFailed
from tests.kit.processor.posts import (
    BatchPost,
    DetectionPost,
    Ids,
    LogsPost,
    MetricsPost,
    Post,
    batch_post,
    detection_post,
    logs_post,
    metrics_post,
)
from tests.kit.processor.routes import Call
from tests.kit.processor.store import RequestLine, Store, Writing

Pods = Mapping[str, Sequence[tuple[str, str]]]
"""Pod name to the (name, uid) of every workload that owns the pod."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Part:
    decode: Callable[[bytes], Post]
    done: str
    failed: str


_PARTS = {
    "detection": _Part(
        decode=detection_post,
        done="detection reported successfully",
        failed="failed to process detection",
    ),
    "metrics": _Part(
        decode=metrics_post,
        done="metrics reported successfully",
        failed="failed to process metrics",
    ),
    "logs": _Part(
        decode=logs_post,
        done="training data reported successfully",
        failed="failed to process logs",
    ),
}


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What became of one part: an error per workload, empty where all went well."""

    count: int | None
    errors: tuple[str, ...]

    @property
    def succeeded(self) -> int:
        return self.errors.count("")

    def counts(self) -> dict[str, int]:
        counted = {} if self.count is None else {"count": self.count}
        return {**counted, "workloads_count": len(self.errors), "success_count": self.succeeded}


class Processor:
    """Answers POSTs out of a store and a map of pods, which may change between requests."""

    def __init__(self, *, store: Store, pods: Pods) -> None:
        self._store = store
        self._pods = pods

    def answer(self, name: str, call: Call) -> Reply:
        """Process the POST for the handler ``name``, keep its line, and answer it."""
        batch = name == "batch"
        try:
            post = batch_post(call.body) if batch else _PARTS[name].decode(call.body)
        except InvalidRequest as complaint:
            return self.refuse(call, answers.bad_request(answers.BAD_FORMAT), str(complaint))
        try:
            with self._store.writing() as writing:
                if isinstance(post, BatchPost):
                    reply = self._batch(writing, post, call)
                else:
                    reply = self._single(writing, name, post, call)
                writing.request(_line(call, reply, _posts(post)))
        except StoreFailed:
            _log.exception("a request could not be stored")
            return answers.failure(f"failed to process {name}")
        return reply

    def refuse(self, call: Call, reply: Reply, reason: str) -> Reply:
        """Keep the line of a POST that no handler processed, and return its answer."""
        _log.info("refused POST %s: %s", call.path, reason)
        with self._store.writing() as writing:
            writing.request(_line(call, reply, (), refusal=reason))
        return reply

    def _single(self, writing: Writing, name: str, post: Post, call: Call) -> Reply:
        if not (post.ids.workload_uid or post.ids.pod_name):
            return answers.bad_request(answers.NO_IDS)
        outcome = self._process(writing, post, call)
        if not outcome.errors:
            return answers.bad_request(answers.NO_WORKLOAD)
        if not outcome.succeeded:
            return answers.failure(_PARTS[name].failed)
        return answers.success({"message": _PARTS[name].done, **outcome.counts()})

    def _batch(self, writing: Writing, batch: BatchPost, call: Call) -> Reply:
        results: dict[str, dict[str, Any]] = {}
        for name in _PARTS:
            post: Post | None = getattr(batch, name)
            if post is None:
                continue
            outcome = self._process(writing, post, call)
            if outcome.succeeded:
                results[name] = {"success": True, **outcome.counts()}
            else:
                error = outcome.errors[-1] if outcome.errors else answers.NO_WORKLOAD
                results[name] = {"success": False, "error": error}
        return answers.success({"success": True, "results": results})

    def _process(self, writing: Writing, post: Post, call: Call) -> _Outcome:
        errors = tuple(
            _stored(writing, workload, post, call.received_at)
            for workload in self._workloads(post.ids)
        )
        return _Outcome(count=_count(post), errors=errors)

    def _workloads(self, ids: Ids) -> list[str]:
        if ids.workload_uid:
            return [ids.workload_uid]
        return [uid for _name, uid in self._pods.get(ids.pod_name, ())]


def _stored(writing: Writing, workload: str, post: Post, received_at: float) -> str:
    """Store a part for one workload and return its error, empty when there is none."""
    if isinstance(post, DetectionPost):
        if writing.detection(workload, post, received_at):
            return ""
        return "failed to report WandB detection: the database refused it"
    writes = _writes(post)
    failed = sum(not writing.step(workload, post.ids, write) for write in writes)
    if not failed:
        return ""
    if isinstance(post, MetricsPost):
        return (
            f"failed to store 0 metrics to MetricsStorage, {failed} steps to training_performance"
        )
    return f"failed to store {failed} training data entries"


def _writes(post: MetricsPost | LogsPost) -> list[rows.Write]:
    if isinstance(post, MetricsPost):
        return rows.metric_writes(post.metrics)
    return rows.log_writes(post.logs)


def _count(post: Post) -> int | None:
    if isinstance(post, DetectionPost):
        return None
    return len(_steps(post))


def _steps(post: Post) -> list[int]:
    if isinstance(post, MetricsPost):
        return [point.step for point in post.metrics]
    if isinstance(post, LogsPost):
        return [entry.step for entry in post.logs]
    return []


def _posts(post: Post | BatchPost) -> tuple[Post, ...]:
    if isinstance(post, BatchPost):
        return tuple(part for part in (post.metrics, post.logs, post.detection) if part)
    return (post,)


def _line(call: Call, reply: Reply, posts: tuple[Post, ...], refusal: str = "") -> RequestLine:
    """Return the line of a request; a batch is named by the first of its parts."""
    ids = posts[0].ids if posts else Ids()
    steps = [step for post in posts for step in _steps(post)]
    return RequestLine(
        received_at=call.received_at,
        path=call.path,
        status=reply.status,
        code=reply.code,
        workload_uid=ids.workload_uid,
        pod_name=ids.pod_name,
        run_id=ids.run_id,
        first_step=steps[0] if steps else None,
        last_step=steps[-1] if steps else None,
        items=sum(1 if isinstance(post, DetectionPost) else len(_steps(post)) for post in posts),
        body_bytes=len(call.body),
        body_sha256=hashlib.sha256(call.body).hexdigest(),
        lens_ship_records=call.headers.get("lens-ship-records"),
        refusal=refusal,
    )
