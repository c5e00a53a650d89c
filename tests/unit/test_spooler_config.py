"""The settings of the training side: every variable is read, a bad value costs only itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from spooler import config
from spooler.spool.writer import Limits

DEFAULTS = config.from_environ({})


VARIABLES = (
    *config.variables_of(config.Settings),
    *config.variables_of(config.CollectorSettings),
)


def test_an_empty_environment_gives_the_defaults() -> None:
    assert config.Settings() == DEFAULTS
    assert DEFAULTS.root is None
    assert DEFAULTS.sync_seconds == 1.0
    assert not DEFAULTS.debug


def test_the_writer_has_the_same_defaults() -> None:
    limits = Limits()
    assert limits.segment_bytes == DEFAULTS.segment_bytes
    assert limits.segment_records == DEFAULTS.segment_records
    assert limits.segment_seconds == DEFAULTS.segment_seconds


def test_every_variable_is_read() -> None:
    settings = config.from_environ(
        {
            "PRIMUS_LENS_WANDB_OUTPUT_PATH": "/data/spool",
            "PRIMUS_LENS_WANDB_HOOK": "off",
            "PRIMUS_LENS_WANDB_DEBUG": "true",
            "PRIMUS_LENS_SPOOL_SEGMENT_BYTES": "1000",
            "PRIMUS_LENS_SPOOL_SEGMENT_RECORDS": "10",
            "PRIMUS_LENS_SPOOL_SEGMENT_SECONDS": "1.5",
            "PRIMUS_LENS_SPOOL_SYNC_SECONDS": "0.25",
            "PRIMUS_LENS_SPOOL_MAX_BYTES": "2000000",
            "PRIMUS_LENS_SPOOL_WHEN_FULL": "drop-oldest",
            "PRIMUS_LENS_SPOOL_GROUP": "telemetry",
        }
    )
    assert settings == config.Settings(
        root=Path("/data/spool"),
        hook=False,
        segment_bytes=1000,
        segment_records=10,
        segment_seconds=1.5,
        sync_seconds=0.25,
        max_bytes=2_000_000,
        drop_oldest=True,
        group_name="telemetry",
        debug=True,
    )


def test_every_variable_has_a_meaning() -> None:
    names = [variable.names for variable in VARIABLES]
    assert len(set(names)) == len(names)
    assert all(variable.meaning.endswith(".") for variable in VARIABLES)


@pytest.mark.promise("G2")
@pytest.mark.parametrize("value", ["", "many", "0", "-5", "nan", "inf", "-inf", "1e999", "0.5"])
@pytest.mark.parametrize("name", ["BYTES", "RECORDS", "SECONDS"])
def test_a_bad_number_counts_as_not_set(name: str, value: str) -> None:
    assert config.from_environ({f"PRIMUS_LENS_SPOOL_SEGMENT_{name}": value}) == DEFAULTS


@pytest.mark.parametrize("off", ["false", "0", "no", "off", "False", " OFF "])
def test_the_hook_can_be_switched_off(off: str) -> None:
    environ = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": "/data", "PRIMUS_LENS_WANDB_HOOK": off}
    assert not config.is_hook_on(environ)
    assert not config.from_environ(environ).hook


@pytest.mark.parametrize("on", ["true", "1", "", "anything"])
def test_anything_else_leaves_it_on(on: str) -> None:
    environ = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": "/data", "PRIMUS_LENS_WANDB_HOOK": on}
    assert config.is_hook_on(environ)
    assert config.from_environ(environ).hook


def test_an_empty_path_is_no_path() -> None:
    assert config.from_environ({"PRIMUS_LENS_WANDB_OUTPUT_PATH": ""}).root is None


@pytest.mark.parametrize(("value", "seconds"), [("0", 0.0), ("0.5", 0.5), ("-1", 1.0), ("x", 1.0)])
def test_only_zero_switches_syncing_off(value: str, seconds: float) -> None:
    settings = config.from_environ({"PRIMUS_LENS_SPOOL_SYNC_SECONDS": value})
    assert settings.sync_seconds == seconds


def test_the_variables_of_the_collectors_are_read() -> None:
    default = config.collectors_from_environ({})
    assert (default.wanted, default.log_seconds, default.log_from_end) == (frozenset(), 5, False)
    assert (default.metric_seconds, default.stack_seconds, default.hang_seconds) == (60, 600, 300)
    assert (default.stack_signal, default.hang_dump, default.max_restarts) == ("", False, 3)
    given = config.collectors_from_environ(
        {
            "PRIMUS_LENS_COLLECTORS": " Log, stack, nonsense",
            "PRIMUS_LENS_LOG_SECONDS": "0.5",
            "PRIMUS_LENS_LOG_START": "END",
            "PRIMUS_LENS_METRIC_SECONDS": "-1",
            "PRIMUS_LENS_STACK_SECONDS": "0",
            "PRIMUS_LENS_STACK_SIGNAL": "sigusr2",
            "PRIMUS_LENS_HANG_SECONDS": "nan",
            "PRIMUS_LENS_HANG_DUMP": "on",
            "PRIMUS_LENS_MAX_RESTARTS": "0",
        }
    )
    assert given == config.CollectorSettings(
        names=frozenset({"log", "stack", "nonsense"}),
        log_seconds=0.5,
        log_from_end=True,
        metric_seconds=60,
        stack_seconds=0,
        stack_signal="SIGUSR2",
        hang_seconds=300,
        hang_dump=True,
        max_restarts=0,
    )
    assert given.wanted == {"log", "stack"}
    assert given.unknown == {"nonsense"}
    off = config.collectors_from_environ({"PRIMUS_LENS_COLLECTORS": "off"})
    assert (off.wanted, off.unknown) == (frozenset(), frozenset())
    assert config.collectors_from_environ({"PRIMUS_LENS_COLLECTORS": "true"}).wanted == {
        "log",
        "metric",
        "stack",
    }
