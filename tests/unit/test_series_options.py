from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shipper.sinks.options import from_table
from shipper.sinks.otlp.sink import OtlpOptions, OtlpSink
from shipper.sinks.prometheus.sink import PrometheusOptions


def options(cls: type = OtlpOptions, **table: Any) -> tuple[Any, list[str]]:
    return from_table(cls, table, "[sinks.one]")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "_METRICS", "_LOGS"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP{name}_ENDPOINT", raising=False)


def test_a_base_address_gets_the_path_of_each_signal() -> None:
    found, problems = options(url="http://h:4318/", logs=True)
    assert problems == []
    assert found.endpoints == {
        "metrics": "http://h:4318/v1/metrics",
        "logs": "http://h:4318/v1/logs",
    }


def test_the_address_of_a_signal_is_used_as_it_is() -> None:
    found, problems = options(metrics_url="http://h/m", logs_url="http://l/l", logs=True)
    assert problems == []
    assert found.endpoints == {"metrics": "http://h/m", "logs": "http://l/l"}


@pytest.mark.parametrize("cls", [OtlpOptions, PrometheusOptions])
def test_an_address_is_needed(cls: type) -> None:
    _, (problem,) = options(cls)
    assert problem.startswith("[sinks.one]: url: is not set")


def test_something_must_be_sent() -> None:
    _, (problem,) = options(url="http://h", numbers=False)
    assert "Nothing would be sent" in problem


def test_variables_of_opentelemetry_are_the_last_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://e:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://l/own")
    found, problems = options(logs=True)
    assert problems == []
    assert found.endpoints == {"metrics": "http://e:4318/v1/metrics", "logs": "http://l/own"}
    given, _ = options(url="http://h")
    assert given.endpoints == {"metrics": "http://h/v1/metrics"}


def test_the_time_of_the_environment_gives_way_to_an_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1500")
    for table, seconds in (({}, 1.5), ({"read_timeout": 7}, 7.0)):
        found, _ = options(url="http://h", **table)
        assert OtlpSink("one", found, {})._http.read_seconds == seconds


def test_secrets_go_to_the_origin_of_the_first_address(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    found, problems = options(
        metrics_url="http://h/m", logs_url="http://l/l", logs=True, token_file=str(token)
    )
    assert problems == []
    assert found.credentials().is_for("http://h/m")
    assert not found.credentials().is_for("http://l/l")
