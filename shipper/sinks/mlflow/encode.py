"""The wire contract of an MLflow tracking server, as the service relies on it. Pure.

`POST /api/2.0/mlflow/runs/log-batch {run_id, metrics: [{key, value, timestamp, step}], params:
[{key, value}], tags: [{key, value}]}` with at most 1000 metrics, 100 params, 100 tags and 1 MB.

- One bad key refuses the whole request. A key has letters, digits and `/_.-: `, at most 250 of
  them, and is a normal path. Another name is changed, and the tag `lens.name/<key>` holds it.
- A metric is a row of its key, step, time and value: the same row again changes nothing.
- A param has one value permanently. Another value goes into the tag `lens.param/<key>`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

import orjson

from shipper.sinks.values import clean_text, interleaved, rows_of
from spooler.records.run import RunRecord
from spooler.spool.identity import Identity

RUN_TAG = "lens.run"  # by which a run is found again, with one of the next two
RANK_TAG, SOLE_TAG = "lens.rank", "lens.sole_writer"
STATUS_TAG = "lens.status_time"  # Unix milliseconds of the record that gave the status
NAME_TAG, PARAM_TAG, PARAM_NAME_TAG = "lens.name/", "lens.param/", "lens.param_name/"

_KEY_CHARACTERS = 250
_CHANGED_CHARACTERS = 220  # of a key that a tag repeats
_PARAM_CHARACTERS = 6000
_TAG_CHARACTERS = 8000
# So many fit into one request, whatever they hold.
_PARAMS_AT_ONCE = 25
_TAGS_AT_ONCE = 20
_NAMES_KEPT = 20_000  # of one run
_DIGEST_CHARACTERS = 8
_NOT_IN_KEYS = re.compile(r"[^/\w.\- :]")
_PLAIN_RUN = re.compile(r"[\w.\-: ]{1,128}")
T = TypeVar("T")

# Tag -> field of the identity, and of the run record.
_OF_PROCESS = {
    "lens.workload": "workload_uid",
    RANK_TAG: "rank",
    "lens.world_size": "world_size",
    "lens.host": "host",
    "k8s.namespace.name": "namespace",
    "k8s.pod.name": "pod_name",
    "k8s.node.name": "node_name",
    "slurm.job.id": "slurm_job_id",
}
_OF_RUN = {
    "lens.tracker": "tracker",
    "lens.entity": "entity",
    "lens.project": "project",
    "lens.group": "group",
    "lens.job_type": "job_type",
}


class StoredRun(NamedTuple):
    """A run as the server has it."""

    id: str
    status: str
    start: int  # Unix milliseconds
    deleted: bool
    keys: tuple[str, ...]  # of its metrics
    params: Mapping[str, str]
    tags: Mapping[str, str]


def stored_run(answer: Any) -> StoredRun:
    """The run in an answer.

    Raises:
        LookupError, TypeError, ValueError: it is not the answer of an MLflow server.
    """
    info, data = answer["info"], answer.get("data", {})
    return StoredRun(
        id=str(info["run_id"]),
        status=info.get("status", ""),
        start=int(info.get("start_time", 0)),
        deleted=info.get("lifecycle_stage") == "deleted",
        keys=tuple(one["key"] for one in data.get("metrics", ())),
        params={one["key"]: one.get("value", "") for one in data.get("params", ())},
        tags={one["key"]: one.get("value", "") for one in data.get("tags", ())},
    )


class MetricKeys:
    """The keys of the names of one run: two names never share a key.

    The name that comes first gets the key. What came first in an earlier process, the server knows
    (`learn`).
    """

    def __init__(self, tag: str = NAME_TAG) -> None:
        self._tag = tag
        self._keys: dict[str, str] = {}  # name -> key
        self._names: dict[str, str] = {}  # key -> name
        self._told: set[str] = set()  # keys whose names the server has

    def learn(self, keys: Iterable[str], tags: Mapping[str, str]) -> None:
        """What the server has of the run: keys of its metrics, and its tags."""
        for key in keys:
            name = tags.get(self._tag + key, key)
            self._keys[name], self._names[key] = key, name
            self._told.add(key)

    def key(self, name: str) -> str:
        key = self._keys.get(name)
        if key is None:
            if len(self._names) >= _NAMES_KEPT:
                self._keys.clear()
                self._names.clear()
            key = key_of(name)
            if self._names.setdefault(key, name) != name:
                key = f"{key[:_CHANGED_CHARACTERS]}-{_digest(name)}"
                self._names[key] = name
            self._keys[name] = key
        return key

    def new_tags(self, keys: Iterable[str]) -> dict[str, str]:
        """Tags with the names of these keys, where key and name differ and the server lacks it."""
        names = {key: self._names.get(key, key) for key in keys if key not in self._told}
        return {self._tag + key: name for key, name in names.items() if name != key}

    def told(self, tags: Iterable[str]) -> None:
        """The server has these tags now."""
        self._told.update(tag.removeprefix(self._tag) for tag in tags if tag.startswith(self._tag))


def key_of(name: str) -> str:
    """`name` as a key that MLflow takes."""
    parts = [part for part in _NOT_IN_KEYS.sub("_", name).split("/") if part not in ("", ".")]
    key = "/".join("__" if part == ".." else part for part in parts)
    if key.startswith(".."):
        key = f"__{key[2:]}"
    if len(key) > _KEY_CHARACTERS or (key != name and len(key) > _CHANGED_CHARACTERS):
        key = key[:_CHANGED_CHARACTERS].rstrip("/.")
    return key or "_"


def run_key(run: str) -> str:
    """The value of `RUN_TAG`. It stands inside a filter, where nothing can be escaped."""
    if _PLAIN_RUN.fullmatch(run):
        return run
    return f"{_NOT_IN_KEYS.sub('_', run)[:64]}-{_digest(run)}"


def filters(key: str, rank: str) -> list[str]:
    """What finds a run: that of this rank, else that of a run with a sole writer."""
    return [
        f"tags.\"{RUN_TAG}\" = '{key}' and tags.\"{tag}\" = '{value}'"
        for tag, value in ((RANK_TAG, rank), (SOLE_TAG, "true"))
    ]


def tags_of_process(identity: Identity, record: RunRecord) -> dict[str, str]:
    """What a run says of its process and of the tracker."""
    found = {tag: getattr(identity, name) for tag, name in _OF_PROCESS.items()}
    found |= {tag: getattr(record, name) for tag, name in _OF_RUN.items()}
    found["lens.tags"] = ", ".join(map(str, record.tags))
    found[SOLE_TAG] = "true" if record.sole_writer else ""
    return {tag: str(value) for tag, value in found.items() if value not in ("", None)}


def params(config: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """A flat configuration as params, and tags with the names of those whose key is another."""
    names = MetricKeys(PARAM_NAME_TAG)
    texts = ((names.key(str(name)), str(value)) for name, value in config.items())
    found = {key: clean_text(value)[:_PARAM_CHARACTERS] for key, value in texts}
    return found, names.new_tags(found)


def divide(
    wanted: Mapping[str, str], present: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Of params those that a run lacks, and tags for those of which it has another value."""
    new = {key: value for key, value in wanted.items() if key not in present}
    changed = {
        (PARAM_TAG + key)[:_KEY_CHARACTERS]: value
        for key, value in wanted.items()
        if present.get(key, value) != value
    }
    return new, changed


# Of each metric there are as many parts, and the last one ends in a comma.
_PARTS = 3


def metric(key: str, value: float, time: int, step: int) -> tuple[bytes, ...]:
    """A metric of a log-batch. JSON has no NaN: what is not finite is text."""
    shown = value if math.isfinite(value) else _NONFINITE[str(value)]
    named = orjson.dumps({"key": key, "value": shown, "timestamp": time, "step": step})
    return named, b"", b","


_NONFINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def metrics_of(keys: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> list[bytes]:
    """As `metric` of each value of rows, which have a step and a time before their values."""
    heads = [b'{"key":%b,"value":' % orjson.dumps(key) for key in keys]
    numbers = orjson.dumps([[*map(float, row[2:])] for row in rows])
    tails = [b',"timestamp":%d,"step":%d},' % (round(row[1] * 1000), row[0]) for row in rows]
    return interleaved(heads, rows_of(numbers), tails)


def log_batches(
    run_id: str, parts: Sequence[bytes], tags: Mapping[str, str], at_once: int
) -> Iterator[bytes]:
    """Bodies of log-batch, each within the limits; `parts` are those of metrics."""
    head = orjson.dumps({"run_id": run_id})[:-1]
    some_tags = _slices(list(tags.items()), _TAGS_AT_ONCE)
    for some, more in zip_longest(_slices(parts, _PARTS * at_once), some_tags, fillvalue=()):
        metrics, named = b"".join(some)[:-1], orjson.dumps(pairs(dict(more)))
        yield b'%b,"metrics":[%b],"tags":%b}' % (head, metrics, named)


def param_batches(run_id: str, values: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The same of params."""
    for some in _slices(list(values.items()), _PARAMS_AT_ONCE):
        yield {"run_id": run_id, "params": pairs(dict(some))}


def pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Keys and values as MLflow has tags and params."""
    return [
        {"key": key, "value": clean_text(value)[:_TAG_CHARACTERS]} for key, value in values.items()
    ]


def _slices(values: Sequence[T], count: int) -> Iterator[Sequence[T]]:
    return (values[at : at + count] for at in range(0, len(values), count))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:_DIGEST_CHARACTERS]
