"""The requests of the four POST endpoints, as types.

Rules:

* No field is required, and every absent field has its zero value.
* Fields that the telemetry-processor decodes and then ignores (``source``, the ``timestamp``
  of the request, ``tags``) are typed here, so that a wrong type is refused, and dropped.
* A detection is kept as the document that is passed on: without ``evidence.wandb.tags`` and
  three of the hints.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.kit.processor.decode import (
    FLAG,
    FREE,
    REAL,
    TEXT,
    WHOLE,
    decoded,
    each,
    nullable,
    record,
    table,
)


@dataclass(frozen=True, kw_only=True)
class Ids:
    """Whose data it is: a workload by its uid, or by the name of one of its pods."""

    workload_uid: str = ""
    pod_uid: str = ""
    pod_name: str = ""
    run_id: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricPoint:
    """One metric at one step."""

    name: str
    value: float
    step: int
    timestamp: float


@dataclass(frozen=True, kw_only=True)
class LogEntry:
    """Structured values of one step."""

    step: int
    timestamp: float
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class MetricsPost:
    """The body of ``/wandb/metrics``."""

    ids: Ids
    metrics: tuple[MetricPoint, ...]


@dataclass(frozen=True, kw_only=True)
class LogsPost:
    """The body of ``/wandb/logs``."""

    ids: Ids
    logs: tuple[LogEntry, ...]


@dataclass(frozen=True, kw_only=True)
class DetectionPost:
    """The body of ``/wandb/detection``, with the document that is passed on."""

    ids: Ids
    document: Mapping[str, Any]


Post = DetectionPost | MetricsPost | LogsPost


@dataclass(frozen=True, kw_only=True)
class BatchPost:
    """The body of ``/wandb/batch``: each part may be missing."""

    detection: DetectionPost | None
    metrics: MetricsPost | None
    logs: LogsPost | None


def detection_post(body: bytes) -> DetectionPost:
    """Decode the body of ``/wandb/detection``."""
    return _detection(decoded(_DETECTION, body))


def metrics_post(body: bytes) -> MetricsPost:
    """Decode the body of ``/wandb/metrics``."""
    return _metrics(decoded(_METRICS, body))


def logs_post(body: bytes) -> LogsPost:
    """Decode the body of ``/wandb/logs``."""
    return _logs(decoded(_LOGS, body))


def batch_post(body: bytes) -> BatchPost:
    """Decode the body of ``/wandb/batch``."""
    parts = decoded(_BATCH, body)
    return BatchPost(
        detection=None if parts["detection"] is None else _detection(parts["detection"]),
        metrics=None if parts["metrics"] is None else _metrics(parts["metrics"]),
        logs=None if parts["logs"] is None else _logs(parts["logs"]),
    )


_OWNER = {
    "source": TEXT,
    "workload_uid": TEXT,
    "pod_uid": TEXT,
    "pod_name": TEXT,
    "timestamp": REAL,
}
_STRINGS = table(TEXT)
_FRAMEWORKS = table(table(FREE))

_METRICS = record(
    **_OWNER,
    run_id=TEXT,
    metrics=each(record(name=TEXT, value=REAL, step=WHOLE, timestamp=REAL, tags=_STRINGS)),
)
_LOGS = record(
    **_OWNER,
    run_id=TEXT,
    logs=each(record(step=WHOLE, timestamp=REAL, data=table(FREE))),
)
_EVIDENCE = record(
    wandb=record(project=TEXT, name=TEXT, id=TEXT, config=table(FREE), tags=each(TEXT)),
    environment=_STRINGS,
    pytorch=nullable(
        record(available=FLAG, version=TEXT, cuda_available=FLAG, detected_modules=table(FLAG))
    ),
    wrapper_frameworks=_FRAMEWORKS,
    base_frameworks=_FRAMEWORKS,
    system=table(FREE),
    hardware=nullable(
        record(
            gpu_arch=TEXT,
            gpu_count=WHOLE,
            gpu_memory_gb=REAL,
            gpu_name=TEXT,
            rocm_version=TEXT,
            cuda_version=TEXT,
        )
    ),
    software=nullable(record(rocm_version=TEXT, packages=_STRINGS)),
    build=nullable(
        record(
            build_url=TEXT,
            dockerfile_url=TEXT,
            image_tag=TEXT,
            build_date=TEXT,
            git_commit=TEXT,
            git_branch=TEXT,
            git_repo=TEXT,
            ci_pipeline_id=TEXT,
        )
    ),
)
_HINTS = record(
    wrapper_frameworks=each(TEXT),
    base_frameworks=each(TEXT),
    possible_frameworks=each(TEXT),
    primary_indicators=each(TEXT),
    confidence=TEXT,
    framework_layers=_FRAMEWORKS,
)
_DETECTION = record(
    **_OWNER, type=TEXT, version=TEXT, namespace=TEXT, evidence=_EVIDENCE, hints=_HINTS
)
_BATCH = record(detection=nullable(_DETECTION), metrics=nullable(_METRICS), logs=nullable(_LOGS))
_HINTS_PASSED_ON = ("wrapper_frameworks", "base_frameworks", "possible_frameworks")


def _ids(fields: Mapping[str, Any]) -> Ids:
    return Ids(
        workload_uid=fields["workload_uid"],
        pod_uid=fields["pod_uid"],
        pod_name=fields["pod_name"],
        run_id=fields.get("run_id", ""),
    )


def _metrics(fields: Mapping[str, Any]) -> MetricsPost:
    return MetricsPost(
        ids=_ids(fields),
        metrics=tuple(
            MetricPoint(
                name=point["name"],
                value=point["value"],
                step=point["step"],
                timestamp=point["timestamp"],
            )
            for point in fields["metrics"]
        ),
    )


def _logs(fields: Mapping[str, Any]) -> LogsPost:
    return LogsPost(ids=_ids(fields), logs=tuple(LogEntry(**entry) for entry in fields["logs"]))


def _detection(fields: Mapping[str, Any]) -> DetectionPost:
    evidence = dict(fields["evidence"])
    evidence["wandb"] = {k: v for k, v in evidence["wandb"].items() if k != "tags"}
    hints = {name: fields["hints"][name] for name in _HINTS_PASSED_ON}
    return DetectionPost(
        ids=_ids(fields), document={**fields, "evidence": evidence, "hints": hints}
    )
