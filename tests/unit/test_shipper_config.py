"""Every setting comes from the first of four sources, is checked, and all problems come at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from shipper.config import SETTINGS, Config, default_state, load
from shipper.errors import ConfigError
from tests.kit.spools import identity

BASE = {"spool": "/spool", "state": "/state"}
# Another good value for each setting, as text; and what it means.
OTHER: dict[str, tuple[str, Any]] = {
    "spool": ("/other/spool", Path("/other/spool")),
    "state": ("/other/state", Path("/other/state")),
    "processor_url": ("http://host:8989/v1", "http://host:8989/v1"),
    "batch_size": ("7", 7),
    "flush_interval": ("0.5", 0.5),
    "request_bytes": ("2048", 2048),
    "connect_timeout": ("1.5", 1.5),
    "read_timeout": ("90", 90.0),
    "numbers_only": ("true", True),
    "rank_prefix": ("false", False),
    "api_reporting": ("false", False),
    "save_local": ("false", False),
    "retain_seconds": ("60", 60.0),
    "retain_bytes": ("1000", 1000),
    "root_bytes": ("5000", 5000),
    "when_full": ("drop-oldest", "drop-oldest"),
    "dead_letter_count": ("5", 5),
    "dead_letter_bytes": ("500", 500),
    "rescan_seconds": ("1", 1.0),
    "workers": ("2", 2),
    "log_level": ("debug", "debug"),
}
NAMES = [setting.name for setting in SETTINGS]
BY_NAME = {setting.name: setting for setting in SETTINGS}
ALIASES = {setting.name: setting.alias for setting in SETTINGS if setting.alias}


def toml(folder: Path, **values: Any) -> Path:
    def written(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool | int | float) else f"'{value}'"

    file = folder / "settings.toml"
    file.write_text("".join(f"{name} = {written(value)}\n" for name, value in values.items()))
    return file


def problems(
    flags: Mapping[str, Any], environ: Mapping[str, str] | None = None, file: Path | None = None
) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(flags, environ or {}, file)
    assert raised.value.exit_code == 2
    assert str(raised.value) == "\n".join(raised.value.problems)
    return raised.value.problems


def test_there_is_another_value_here_for_every_setting_that_there_is() -> None:
    assert sorted(OTHER) == sorted(NAMES)
    assert sorted({*NAMES, "given"}) == sorted(Config.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        *((name, source) for name in NAMES for source in ("flag", "variable", "file")),
        *((name, "alias") for name in ALIASES),
    ],
)
def test_every_source_gives_every_setting(tmp_path: Path, name: str, source: str) -> None:
    text, value = OTHER[name]
    setting = BY_NAME[name]
    flags: dict[str, Any] = {key: value for key, value in BASE.items() if key != name}
    environ: dict[str, str] = {}
    file = None
    if source == "flag":
        flags[name] = text
    elif source == "variable":
        environ[setting.variable] = text
    elif source == "file":
        file = toml(tmp_path, **{name: str(value) if isinstance(value, Path) else value})
    else:
        environ[setting.alias] = text
    config = load(flags, environ, file)
    assert getattr(config, name) == value
    where = {"flag": setting.flag, "variable": setting.variable, "alias": setting.alias}
    assert config.given[name] == where.get(source, f"{file}: {name}")


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_the_sources_have_an_order(tmp_path: Path, name: str) -> None:
    good = {
        "batch_size": "1 2 3 4",
        "flush_interval": "1 2 3 4",
        "processor_url": "http://a http://b http://c http://d",
        "spool": "/a /b /c /d",
    }.get(name, "true false true false")
    first, second, third, fourth = good.split()
    flags: dict[str, Any] = {**BASE, name: first}
    environ = {BY_NAME[name].variable: second, ALIASES[name]: fourth}
    file = toml(tmp_path, **{name: third})
    parse = BY_NAME[name].parse
    assert getattr(load(flags, environ, file), name) == parse(first)
    flags[name] = None
    assert getattr(load(flags, environ, file), name) == parse(second)
    environ[BY_NAME[name].variable] = ""
    assert getattr(load(flags, environ, file), name) == parse(third)
    assert getattr(load(flags, environ), name) == parse(fourth)


def test_the_aliases_are_those_of_the_older_exporter() -> None:
    assert ALIASES == {
        "spool": "PRIMUS_LENS_WANDB_OUTPUT_PATH",
        "processor_url": "PRIMUS_LENS_API_BASE_URL",
        "batch_size": "PRIMUS_LENS_WANDB_BATCH_SIZE",
        "flush_interval": "PRIMUS_LENS_WANDB_FLUSH_INTERVAL",
        "api_reporting": "PRIMUS_LENS_WANDB_API_REPORTING",
        "save_local": "PRIMUS_LENS_WANDB_SAVE_LOCAL",
    }


def test_without_any_source_the_defaults_count() -> None:
    config = load({"spool": "/spool"}, {})
    for setting in SETTINGS:
        if setting.name not in ("spool", "state"):
            assert getattr(config, setting.name) == setting.default
            assert setting.parse(setting.default) == setting.default
    assert dict(config.given) == {"spool": "--spool"}


WRONG = [
    ("spool", ""),
    ("state", ""),
    *(
        ("processor_url", text)
        for text in ("host:8989", "ftp://host", "http://", "/v1", "http://[")
    ),
    *(("batch_size", text) for text in ("0", "1001", "-1", "1.5", "many", "")),
    *(("flush_interval", text) for text in ("0", "0.04", "3601", "nan", "inf", "soon")),
    *(("request_bytes", text) for text in ("1023", str(64 * 1024 * 1024 + 1), "1k")),
    *(("connect_timeout", text) for text in ("0", "601", "-1", "nan")),
    *(("read_timeout", text) for text in ("0", "3601", "x")),
    *(("numbers_only", text) for text in ("maybe", "2", "")),
    *(("rank_prefix", text) for text in ("maybe", "")),
    *(("api_reporting", text) for text in ("maybe", "")),
    *(("save_local", text) for text in ("maybe", "")),
    *(("retain_seconds", text) for text in ("-1", "1e12", "x")),
    *(("retain_bytes", text) for text in ("-1", "1.5", str(2**61))),
    *(("root_bytes", text) for text in ("-1", "1.5", str(2**61))),
    *(("when_full", text) for text in ("drop", "")),
    *(("dead_letter_count", text) for text in ("-1", "1.5", "1000000001")),
    *(("dead_letter_bytes", text) for text in ("-1", "x", str(2**51))),
    *(("rescan_seconds", text) for text in ("0", "3601", "x")),
    *(("workers", text) for text in ("0", "65", "x")),
    *(("log_level", text) for text in ("loud", "")),
]


@pytest.mark.parametrize(("name", "text"), WRONG)
def test_a_bad_value_is_named_with_its_source_and_a_reason(name: str, text: str) -> None:
    (problem,) = problems({**BASE, name: text})
    assert problem.startswith(f"{BY_NAME[name].flag}: {text!r} is ")


def test_there_is_a_bad_value_here_for_every_setting() -> None:
    assert {name for name, _ in WRONG} == set(NAMES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", True),
        ("batch_size", 1.5),
        ("batch_size", math.nan),
        ("workers", math.inf),
        ("flush_interval", True),
        ("numbers_only", 1.5),
    ],
)
def test_a_file_is_no_laxer_than_the_command_line(tmp_path: Path, name: str, value: Any) -> None:
    (problem,) = problems(BASE, file=toml(tmp_path, **{name: value}))
    assert problem.startswith(f"{tmp_path / 'settings.toml'}: {name}: ")


@pytest.mark.parametrize(
    "content", ["batch_size = [1]", "log_level = {a = 1}", "workers = 1979-05-27"]
)
def test_a_value_of_another_type_altogether_is_a_problem_and_no_crash(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "settings.toml").write_text(content)
    (problem,) = problems(BASE, file=tmp_path / "settings.toml")
    assert content.split()[0] in problem


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    file = toml(tmp_path, workers=0, colour="red")
    environ = {"LENS_SHIP_BATCH_SIZE": "x", "PRIMUS_LENS_WANDB_SAVE_LOCAL": "perhaps"}
    found = problems({"flush_interval": "nan"}, environ, file)
    for word in (
        "--flush-interval",
        "LENS_SHIP_BATCH_SIZE",
        ": workers:",
        ": colour:",
        "spool root",
    ):
        assert sum(word in problem for problem in found) == 1, word
    assert sum("PRIMUS_LENS_WANDB_SAVE_LOCAL" in problem for problem in found) == 1
    assert len(found) == 6


def test_an_unknown_key_is_a_problem_that_names_the_known_ones(tmp_path: Path) -> None:
    (problem,) = problems(BASE, file=toml(tmp_path, bacth_size=1))
    assert "bacth_size" in problem
    for name in NAMES:
        assert name in problem


@pytest.mark.parametrize(
    "content", [b"= 1", b"workers = ", b"\xff\xfe", b"workers = 1\nworkers = 1"]
)
def test_a_file_that_is_no_toml_is_a_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.toml").write_bytes(content)
    (problem,) = problems(BASE, file=tmp_path / "settings.toml")
    assert problem.startswith(f"{tmp_path / 'settings.toml'}: ")


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    (problem,) = problems(BASE, file=tmp_path / "nowhere.toml")
    assert "nowhere.toml" in problem


def test_without_a_spool_root_all_three_ways_to_give_one_are_told() -> None:
    (problem,) = problems({})
    for way in ("--spool", "LENS_SHIP_SPOOL", "PRIMUS_LENS_WANDB_OUTPUT_PATH"):
        assert way in problem


@pytest.mark.parametrize("text", [" http://host/v1/ ", "http://host/v1//"])
def test_a_url_is_trimmed(text: str) -> None:
    assert load({**BASE, "processor_url": text}, {}).processor_url == "http://host/v1"


@pytest.mark.parametrize("word", ["true", "TRUE", " Yes ", "on", "1"])
def test_a_switch_understands_the_usual_words(word: str) -> None:
    assert load({**BASE, "numbers_only": word}, {}).numbers_only is True


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load({**BASE, "spool": "~/spool"}, {}).spool == tmp_path / "spool"


def test_the_state_directory_is_systemds_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/one:/two")
    assert load({"spool": "/spool"}, {}).state == Path("/one")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_state() == Path("/var/lib/lens-ship")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state() == tmp_path / "lens-ship"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state() == tmp_path / ".local" / "state" / "lens-ship"


@pytest.mark.parametrize(
    ("asked", "flags", "steps"),
    [
        (None, {}, 100),
        (7, {}, 7),
        (0, {}, 1),
        (-5, {}, 1),
        (10**6, {}, 1000),
        (7, {"batch_size": 9}, 9),
    ],
)
def test_a_jobs_wish_for_steps_counts_unless_the_operator_says_otherwise(
    asked: int | None, flags: dict[str, Any], steps: int
) -> None:
    config = load({**BASE, **flags}, {})
    assert config.steps_per_request(identity(batch_size=asked)) == steps


@pytest.mark.parametrize(
    ("asked", "flags", "seconds"),
    [
        (None, {}, 5.0),
        (0.5, {}, 0.5),
        (0.0, {}, 0.05),
        (1e9, {}, 3600.0),
        (0.5, {"flush_interval": 9}, 9.0),
    ],
)
def test_a_jobs_wish_for_an_interval_counts_unless_the_operator_says_otherwise(
    asked: float | None, flags: dict[str, Any], seconds: float
) -> None:
    config = load({**BASE, **flags}, {})
    assert config.seconds_to_flush(identity(flush_interval=asked)) == seconds
