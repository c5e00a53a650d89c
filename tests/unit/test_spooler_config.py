"""The settings of the training side: every variable is read, a bad value costs only itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from spooler import config, hooks
from spooler.spool.identity import Identity
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
    assert config.collectors_from_environ({"PRIMUS_LENS_COLLECTORS": "off"}).wanted == frozenset()
    assert config.collectors_from_environ({"PRIMUS_LENS_COLLECTORS": "true"}).wanted == {
        "log",
        "metric",
        "stack",
    }


def bad(environ: dict[str, str]) -> dict[str, str]:
    """The variables that cannot be used, and what is said of each."""
    found: dict[str, str] = {}
    config.from_environ(environ, found)
    config.collectors_from_environ(environ, found)
    config.read(Identity, environ, found)
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PRIMUS_LENS_SPOOL_MAX_BYTES", "abc"),
        ("PRIMUS_LENS_SPOOL_MAX_BYTES", "1e30"),
        ("PRIMUS_LENS_SPOOL_SYNC_SECONDS", "-1"),
        ("PRIMUS_LENS_SPOOL_WHEN_FULL", "drop_oldest"),
        ("PRIMUS_LENS_WANDB_DEBUG", "ture"),
        ("PRIMUS_LENS_WANDB_HOOK", "flase"),
        ("PRIMUS_LENS_SOLE_WRITER", "rank0"),
        ("PRIMUS_LENS_WANDB_API_REPORTING", "flase"),
        ("PRIMUS_LENS_WANDB_BATCH_SIZE", "many"),
        ("PRIMUS_LENS_LOG_START", "ende"),
        ("PRIMUS_LENS_HANG_SECONDS", "5min"),
        ("PRIMUS_LENS_HANG_DUMP", "y"),
    ],
)
def test_a_value_that_cannot_be_used_counts_as_not_set_and_is_named(name: str, value: str) -> None:
    assert bad({name: f" {value}\n"}) == {
        name: f"is '{value}', which cannot be used and counts as not set."
        " `lens-ship docs configuration` describes it."
    }
    for read in (config.from_environ, config.collectors_from_environ):
        assert read({name: value}) == read({})
    assert config.read(Identity, {name: value}) == config.read(Identity, {})


def test_nothing_is_said_of_values_that_can_be_used() -> None:
    environ = {
        "PRIMUS_LENS_SPOOL_MAX_BYTES": "1e9",
        "PRIMUS_LENS_SPOOL_WHEN_FULL": "Drop-Newest",
        "PRIMUS_LENS_LOG_START": "beginning",
        "PRIMUS_LENS_WANDB_HOOK": "ON",
        "PRIMUS_LENS_TRACKERS": " WandB, log",
        "PRIMUS_LENS_COLLECTORS": "off",
        "PRIMUS_LENS_NODE_ERROR_CODES": "",
        "RANK": "of a launcher",  # it is not ours
    }
    assert bad(environ) == {}
    assert config.read(Identity, environ)["max_bytes"] == config.from_environ(environ).max_bytes


@pytest.mark.parametrize(
    ("given", "on", "said"),
    [
        ("wandbb", {"wandb", "mlflow", "log"}, "It counts as not set."),
        ("wandbb, mlflow", {"mlflow"}, "Only known ones are used."),
        ("mlflow,log", {"mlflow", "log"}, ""),
        ("off", set(), ""),
        ("", {"wandb", "mlflow", "log"}, ""),
    ],
)
def test_a_misspelt_tracker_costs_only_itself(given: str, on: set[str], said: str) -> None:
    environ = {"PRIMUS_LENS_TRACKERS": given}
    assert {
        name for name in ("wandb", "mlflow", "log") if config.is_tracker_on(environ, name)
    } == on
    known = "log, mlflow, tensorboard, transformers, wandb"
    text = f"has unknown trackers: wandbb. Known are {known}. {said}"
    assert bad(environ) == ({"PRIMUS_LENS_TRACKERS": text} if said else {})


def test_the_known_trackers_are_those_with_a_hook_and_the_log() -> None:
    hooked = {hook.rpartition(".")[2] for hook in hooks.REGISTRY.values()}
    assert hooked | {config.LOG_TRACKER} == config.ALL_TRACKERS
