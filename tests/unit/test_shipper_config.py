"""Every setting comes from the first of four sources, is checked, and all problems come at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shipper.config import load as room
from shipper.config.load import default_state, load, read_options
from shipper.config.parse import integer, url
from shipper.config.schema import SETTINGS, Config, setting
from shipper.errors import ConfigError
from shipper.sinks import enabled_sinks
from tests.kit.spools import identity

BASE = {"spool": "/spool", "state": "/state"}
# Another good value for each setting, as text; and what it means.
OTHER: dict[str, tuple[str, Any]] = {
    "spool": ("/other/spool", Path("/other/spool")),
    "state": ("/other/state", Path("/other/state")),
    "processor_url": ("http://host:8989/v1", "http://host:8989/v1"),
    "batch_max_steps": ("7", 7),
    "flush_interval": ("0.5", 0.5),
    "batch_max_bytes": ("2048", 2048),
    "connect_timeout": ("1.5", 1.5),
    "drain_seconds": ("25", 25.0),
    "read_timeout": ("90", 90.0),
    "token_file": ("/run/token", Path("/run/token")),
    "cookie_file": ("/run/cookie", Path("/run/cookie")),
    "ca_file": ("/etc/ca.pem", Path("/etc/ca.pem")),
    "client_cert_file": ("/etc/client.pem", Path("/etc/client.pem")),
    "client_key_file": ("/etc/client.key", Path("/etc/client.key")),
    "proxy": ("http://proxy:3128", "http://proxy:3128"),
    "drop_non_numeric": ("true", True),
    "rank_prefix": ("false", False),
    "run_prefix": ("false", False),
    "api_reporting": ("false", False),
    "save_local": ("false", False),
    "retention_seconds": ("60", 60.0),
    "retention_bytes": ("1000", 1000),
    "dlrover_address": (" master-0.jobs:50001", "master-0.jobs:50001"),
    "dlrover_protocol": ("HTTP", "http"),
    "dlrover_client": ("package.module:Client", "package.module:Client"),
    "dlrover_message_bytes": ("2048", 2048),
    "dlrover_max_age": ("0", 0.0),
    "dlrover_wait_for_endpoint": ("60", 60.0),
    "dlrover_proxy": ("environment", "environment"),
    "root_bytes": ("5000", 5000),
    "when_full": ("drop-oldest", "drop-oldest"),
    "dead_letter_count": ("5", 5),
    "dead_letter_bytes": ("500", 500),
    "quarantine_bytes": ("700", 700),
    "rescan_interval": ("1", 1.0),
    "pod_directories": ("true", True),
    "workers": ("2", 2),
    "step_keys": (" global_step,my/step ", "global_step, my/step"),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
    "http_listen": ("[::1]:80", "[::1]:80"),
    "log_repeat_seconds": ("60", 60.0),
}
# What a setting makes no sense without.
WITH: dict[str, dict[str, str]] = {
    "token_file": {"processor_url": "http://host/v1"},
    "cookie_file": {"processor_url": "http://host/v1"},
    "client_cert_file": {"processor_url": "http://host/v1"},
    "client_key_file": {"processor_url": "http://host/v1", "client_cert_file": "/etc/client.pem"},
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


def test_the_tables_of_this_file_cover_every_setting() -> None:
    assert sorted(OTHER) == sorted(NAMES)
    assert sorted({*NAMES, "sinks", "given", "warnings"}) == sorted(Config.__dataclass_fields__)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        *((name, source) for name in NAMES for source in ("flag", "variable", "file")),
        *((name, "alias") for name in ALIASES),
    ],
)
def test_every_setting_can_come_from_every_source(tmp_path: Path, name: str, source: str) -> None:
    text, value = OTHER[name]
    setting = BY_NAME[name]
    flags: dict[str, Any] = {key: value for key, value in BASE.items() if key != name}
    flags.update(WITH.get(name, {}))
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
def test_sources_have_an_order(tmp_path: Path, name: str) -> None:
    good = {
        "batch_max_steps": "1 2 3 4",
        "flush_interval": "1 2 3 4",
        "processor_url": "http://a http://b http://c http://d",
        "spool": "/a /b /c /d",
        "dlrover_address": "a:1 b:2 ::1:3 [::1]:4",
        "dlrover_protocol": "grpc http grpc http",
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


def test_the_aliases_are_those_of_the_older_exporter_and_of_dlrover() -> None:
    assert ALIASES == {
        "spool": "PRIMUS_LENS_WANDB_OUTPUT_PATH",
        "processor_url": "PRIMUS_LENS_API_BASE_URL",
        "batch_max_steps": "PRIMUS_LENS_WANDB_BATCH_SIZE",
        "flush_interval": "PRIMUS_LENS_WANDB_FLUSH_INTERVAL",
        "api_reporting": "PRIMUS_LENS_WANDB_API_REPORTING",
        "save_local": "PRIMUS_LENS_WANDB_SAVE_LOCAL",
        "dlrover_address": "DLROVER_MASTER_ADDR",
        "dlrover_protocol": "DLROVER_MASTER_SERVICE_TYPE",
    }


def test_defaults_apply_without_a_source() -> None:
    config = load({"spool": "/spool"}, {})
    for one in SETTINGS:
        if one.name not in ("spool", "state"):
            assert getattr(config, one.name) == one.default
            assert one.parse(one.default) == one.default
    assert dict(config.given) == {"spool": "--spool"}


WRONG = [
    ("spool", ""),
    ("state", ""),
    *(
        ("processor_url", text)
        for text in ("host:8989", "ftp://host", "http://", "/v1", "http://[")
    ),
    *(("proxy", text) for text in ("proxy:3128", "socks5://proxy", "environ")),
    *(
        ("dlrover_address", text)
        for text in ("host", ":1", "host:", "host:0", "host:99999", "a/b:1")
    ),
    *(("dlrover_address", text) for text in ("1:2:3", "[::1]", "a b:1", "http://h:1", "h:x")),
    *(("dlrover_protocol", text) for text in ("ray", "tcp")),
    *(("dlrover_client", text) for text in ("module", ":name", "module:")),
    *(("dlrover_message_bytes", text) for text in ("1023", "x", str(2**40))),
    *(("dlrover_max_age", text) for text in ("-1", "nan", "x")),
    *(("dlrover_wait_for_endpoint", text) for text in ("-1", "inf", "x")),
    *(("dlrover_proxy", text) for text in ("proxy:3128", "socks5://proxy")),
    *(("batch_max_steps", text) for text in ("0", "1001", "-1", "1.5", "many", "")),
    *(("flush_interval", text) for text in ("0", "0.04", "3601", "nan", "inf", "soon")),
    *(("batch_max_bytes", text) for text in ("1023", str(64 * 1024 * 1024 + 1), "1k")),
    *(("drain_seconds", text) for text in ("3601", "-1", "nan")),
    *(("connect_timeout", text) for text in ("0", "601", "-1", "nan")),
    *(("read_timeout", text) for text in ("0", "3601", "x")),
    *(("drop_non_numeric", text) for text in ("maybe", "2", "")),
    *((name, text) for name in ("rank_prefix", "run_prefix") for text in ("maybe", "")),
    *(("api_reporting", text) for text in ("maybe", "")),
    *(("save_local", text) for text in ("maybe", "")),
    *(("retention_seconds", text) for text in ("-1", "1e12", "x")),
    *(("retention_bytes", text) for text in ("-1", "1.5", str(2**61))),
    *(("root_bytes", text) for text in ("-1", "1.5", str(2**61))),
    *(("when_full", text) for text in ("drop", "")),
    *(("dead_letter_count", text) for text in ("-1", "1.5", "1000000001")),
    *(("dead_letter_bytes", text) for text in ("-1", "x", str(2**51))),
    *(("quarantine_bytes", text) for text in ("-1", "x", str(2**51))),
    ("pod_directories", "perhaps"),
    *(("rescan_interval", text) for text in ("0", "3601", "x")),
    *(("workers", text) for text in ("0", "65", "x")),
    ("step_keys", "global_step,,step"),
    *(("log_level", text) for text in ("loud", "")),
    *(("log_format", text) for text in ("xml", "")),
    *(("http_listen", text) for text in ("5367", "host", "host:x", "host:65536", "host:-1")),
    *(("log_repeat_seconds", text) for text in ("-1", "86401", "x")),
]
# Any text is a path; whether a file is there is seen when it is needed.
PATHS = {"token_file", "cookie_file", "ca_file", "client_cert_file", "client_key_file"}


@pytest.mark.parametrize(("name", "text"), WRONG)
def test_a_bad_value_is_reported_with_source_and_reason(name: str, text: str) -> None:
    (problem,) = problems({**BASE, name: text})
    assert problem.startswith(f"{BY_NAME[name].flag}: {text!r} is ")


def test_there_is_a_bad_value_here_for_every_setting() -> None:
    assert {name for name, _ in WRONG} == set(NAMES) - PATHS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_max_steps", True),
        ("batch_max_steps", 1.5),
        ("batch_max_steps", math.nan),
        ("workers", math.inf),
        ("flush_interval", True),
        ("drop_non_numeric", 1.5),
    ],
)
def test_the_file_is_checked_like_the_command_line(tmp_path: Path, name: str, value: Any) -> None:
    (problem,) = problems(BASE, file=toml(tmp_path, **{name: value}))
    assert problem.startswith(f"{tmp_path / 'settings.toml'}: {name}: ")


@pytest.mark.parametrize(
    "content", ["batch_max_steps = [1]", "log_level = {a = 1}", "workers = 1979-05-27"]
)
def test_a_value_of_another_type_is_reported(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.toml").write_text(content)
    (problem,) = problems(BASE, file=tmp_path / "settings.toml")
    assert content.split()[0] in problem


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    file = toml(tmp_path, workers=0, colour="red")
    environ = {"LENS_SHIP_BATCH_MAX_STEPS": "x", "PRIMUS_LENS_WANDB_SAVE_LOCAL": "perhaps"}
    found = problems({"flush_interval": "nan"}, environ, file)
    for word in (
        "--flush-interval",
        "LENS_SHIP_BATCH_MAX_STEPS",
        ": workers:",
        ": colour:",
        "spool root",
    ):
        assert sum(word in problem for problem in found) == 1, word
    assert sum("PRIMUS_LENS_WANDB_SAVE_LOCAL" in problem for problem in found) == 1
    assert len(found) == 6


def test_an_unknown_key_is_reported_with_a_similar_one(tmp_path: Path) -> None:
    """Forty names around the one that was meant would hide it."""
    (problem,) = problems(BASE, file=toml(tmp_path, bacth_max_steps=1))
    assert problem.endswith("bacth_max_steps: unknown setting; did you mean batch_max_steps?")


def test_an_unknown_key_without_a_similar_one_lists_all(tmp_path: Path) -> None:
    (problem,) = problems(BASE, file=toml(tmp_path, colour=1))
    assert "colour" in problem
    for name in NAMES:
        assert name in problem


@pytest.mark.parametrize(
    "content", [b"= 1", b"workers = ", b"\xff\xfe", b"workers = 1\nworkers = 1"]
)
def test_a_file_that_is_not_toml_is_reported(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.toml").write_bytes(content)
    (problem,) = problems(BASE, file=tmp_path / "settings.toml")
    assert problem.startswith(f"{tmp_path / 'settings.toml'}: ")


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    (problem,) = problems(BASE, file=tmp_path / "nowhere.toml")
    assert "nowhere.toml" in problem


def test_a_missing_spool_root_is_reported_with_the_three_ways_to_give_it() -> None:
    (problem,) = problems({})
    for way in ("--spool", "LENS_SHIP_SPOOL", "PRIMUS_LENS_WANDB_OUTPUT_PATH"):
        assert way in problem


@pytest.mark.parametrize("text", [" http://host/v1/ ", "http://host/v1//"])
def test_a_url_is_trimmed(text: str) -> None:
    assert load({**BASE, "processor_url": text}, {}).processor_url == "http://host/v1"


@pytest.mark.parametrize("word", ["true", "TRUE", " Yes ", "on", "1"])
def test_a_switch_accepts_the_usual_words(word: str) -> None:
    assert load({**BASE, "drop_non_numeric": word}, {}).drop_non_numeric is True


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load({**BASE, "spool": "~/spool"}, {}).spool == tmp_path / "spool"


def test_the_state_directory_of_systemd_is_used_if_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert load({"spool": "/spool"}, {"STATE_DIRECTORY": "/one:/two"}).state == Path("/one")
    monkeypatch.setenv("STATE_DIRECTORY", "/one:/two")
    assert default_state() == Path("/one")
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_state() == Path("/var/lib/lens-ship")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state() == tmp_path / "lens-ship"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state() == tmp_path / ".local" / "state" / "lens-ship"


def test_a_user_without_home_and_entry_has_a_state_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And not a traceback: commands that need no state work, `run` asks for another one."""

    def unknown(_: object) -> None:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)
    assert default_state({}) == Path("/nonexistent/.local/state/lens-ship")
    assert default_state({"XDG_STATE_HOME": "/x"}) == Path("/x/lens-ship")
    for text in ("~/spool", "~nobody-at-all/spool"):
        (problem,) = problems({"spool": text})
        assert "names a home directory that is not known here" in problem


def test_a_path_with_a_zero_byte_is_refused() -> None:
    (problem,) = problems({"spool": "/a\0b"})
    assert "has a zero byte" in problem


@pytest.mark.parametrize(
    ("asked", "flags", "steps"),
    [
        (None, {}, 100),
        (7, {}, 7),
        (0, {}, 1),
        (-5, {}, 1),
        (10**6, {}, 1000),
        (7, {"batch_max_steps": 9}, 9),
    ],
)
def test_the_number_of_steps_of_a_job_applies_unless_the_operator_sets_one(
    asked: int | None, flags: dict[str, Any], steps: int
) -> None:
    config = load({**BASE, **flags}, {})
    options = enabled_sinks(config)["processor"].options
    assert options.steps_per_request(identity(batch_size=asked)) == steps


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
def test_the_interval_of_a_job_applies_unless_the_operator_sets_one(
    asked: float | None, flags: dict[str, Any], seconds: float
) -> None:
    config = load({**BASE, **flags}, {})
    assert config.seconds_to_flush(identity(flush_interval=asked)) == seconds


# --- secrets are never settings -------------------------------------------------------------------

SECRET = "hunter2-s3cr3t"


@pytest.mark.parametrize("name", ["processor_url", "proxy"])
@pytest.mark.parametrize(
    "url", [f"https://user:{SECRET}@host/v1", f"https://{SECRET}@host/v1", f"host:1//u:{SECRET}@h"]
)
def test_a_password_in_a_url_is_rejected_and_not_printed(name: str, url: str) -> None:
    (problem,) = problems({**BASE, name: url})
    assert problem.startswith(f"{BY_NAME[name].flag}: ")
    assert SECRET not in problem


def test_a_token_in_place_of_its_file_name_is_not_printed() -> None:
    flags = {**BASE, "processor_url": "http://host/v1", "token_file": SECRET}
    with pytest.raises(ConfigError) as raised:
        load(flags, {}, sends=True)
    assert "--token-file: the given value cannot be read" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_systemd_credential_is_used_unless_a_file_is_given(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    config = load(BASE, environ)
    assert (config.token_file, config.cookie_file) == (tmp_path / "token", None)
    assert config.given["token_file"] == "$CREDENTIALS_DIRECTORY"
    given = {**BASE, "processor_url": "http://host/v1", "token_file": "/other"}
    assert load(given, environ).token_file == Path("/other")


# --- values that are valid alone but not together -------------------------------------------------

CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "state in root": ({"state": "/spool/state"}, "state: /spool/state is inside"),
    "state is root": ({"state": "/other/../spool"}, "state: /spool is inside"),
    "keeps more than there is": (
        {"retention_bytes": 2000, "root_bytes": 1000},
        "retention_bytes: 2000 is more than root_bytes 1000",
    ),
    "key alone": (
        {"client_key_file": "/k", "processor_url": "http://host"},
        "client_key_file: a key without a certificate",
    ),
    "token for anybody": ({"token_file": "/t"}, "token_file: it is sent to processor_url only"),
    "cookie for anybody": ({"cookie_file": "/t"}, "cookie_file: it is sent to processor_url only"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictory_settings_are_reported(case: str) -> None:
    flags, told = CONTRADICTIONS[case]
    (problem,) = problems({**BASE, **flags})
    assert problem.startswith(told)


def test_a_bad_url_is_reported_once() -> None:
    (problem,) = problems({**BASE, "processor_url": "host:8989", "token_file": "/t"})
    assert problem.startswith("--processor-url: ")


def test_contradictions_and_bad_values_are_reported_together() -> None:
    wrong = {"state": "/spool/s", "retention_bytes": 2, "root_bytes": 1, "workers": 0}
    assert len(problems({**BASE, **wrong, "client_key_file": "/k"})) == 4


def test_a_root_limit_below_the_default_retention_is_valid() -> None:
    assert load({**BASE, "root_bytes": 1000}, {}).root_bytes == 1000


@pytest.mark.parametrize("name", sorted(PATHS))
def test_a_missing_or_empty_file_is_reported_to_a_command_that_sends(
    tmp_path: Path, name: str
) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    for path, told in ((tmp_path / "nowhere", "cannot be read"), (empty, "is empty")):
        flags = {**BASE, **WITH.get(name, {}), name: str(path)}
        if name == "client_key_file":
            flags["client_cert_file"] = str(tmp_path / "nowhere")
        assert getattr(load(flags, {}), name) == path
        with pytest.raises(ConfigError) as raised:
            load(flags, {}, sends=True)
        mine = [one for one in raised.value.problems if one.startswith(BY_NAME[name].flag)]
        assert any(told in one and str(path) in one for one in mine)


# --- unknown variables ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("LENS_SHIP_BACTH_MAX_STEPS", "; did you mean LENS_SHIP_BATCH_MAX_STEPS?"),
        ("LENS_SHIP_SPOOL_ROOT", "; did you mean LENS_SHIP_SPOOL?"),
        ("LENS_SHIP_TOKEN", "; did you mean LENS_SHIP_TOKEN_FILE?"),
        ("LENS_SHIP_XYZZY_QUUX_QUUX", ""),
    ],
)
def test_an_unknown_variable_is_reported_without_its_value(name: str, meant: str) -> None:
    (warning,) = load(BASE, {name: SECRET}).warnings
    assert warning == f"{name}: unknown setting, ignored{meant}"


@pytest.mark.parametrize(
    "name",
    [
        "LENS_SHIP_CONFIG",
        "LENS_SHIP_TIMEOUT",
        "LENS_SHIP_SERVICE_HOST",
        "LENS_SHIP_SERVICE_PORT_METRICS",
        "LENS_SHIP_PORT",
        "LENS_SHIP_PORT_9100_TCP_ADDR",
        "LENS_SHIPPING",
    ],
)
def test_options_and_variables_of_kubernetes_are_not_reported(name: str) -> None:
    assert load(BASE, {name: "tcp://10.0.0.1:9100"}).warnings == ()


def test_every_variable_of_an_option_is_known() -> None:
    """The variables of options are in the list of those that are not settings."""
    package = Path(room.__file__).parents[1]
    text = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    assert set(re.findall(r'envvar="(LENS_SHIP_\w+)"', text)) == set(room.OPTION_VARIABLES)


# --- options of a sink: any dataclass of settings -------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Options:
    """As a sink declares them."""

    url: str = setting("", url, help="The receiver.", alias="RECEIVER_URL")
    retries: int = setting(3, integer(0, 9), help="Requests.", credential="retries")
    given: Mapping[str, str] = field(default_factory=dict)


def test_a_table_becomes_the_options_of_any_dataclass() -> None:
    table = {"url": "http://host/", "retries": 5}
    options, wrong = read_options(Options, table, "x.toml: [sinks.a]", {})
    assert wrong == []
    assert (options.url, options.retries) == ("http://host", 5)
    assert options.given["url"] == "x.toml: [sinks.a]: url"
    assert read_options(Options, {}, "", {})[0] == Options()


def test_every_problem_of_a_table_is_reported_with_its_place() -> None:
    table = {"url": "host", "retries": 10, "retires": 1}
    options, wrong = read_options(Options, table, "x.toml: [sinks.a]", {})
    assert wrong == [
        "x.toml: [sinks.a]: retires: unknown setting; did you mean retries?",
        "x.toml: [sinks.a]: url: 'host' is not an http:// or https:// URL",
        "x.toml: [sinks.a]: retries: 10 is outside 0 … 9",
    ]
    assert (options.url, options.retries) == ("", 3), "the defaults"


def test_what_a_table_lacks_may_come_from_another_tool(tmp_path: Path) -> None:
    (tmp_path / "retries").write_text("")
    environ = {"RECEIVER_URL": "http://c", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    options, wrong = read_options(Options, {}, "t", environ)
    assert options.given == {"url": "RECEIVER_URL", "retries": "$CREDENTIALS_DIRECTORY"}
    assert len(wrong) == 1, "the path of a credential is not a number"


def test_the_tables_of_sinks_are_kept_as_they_are_and_checked_for_shape(tmp_path: Path) -> None:
    file = tmp_path / "lens.toml"
    file.write_text('workers = 2\n[sinks.spare]\ntype = "processor"\nretries = 4\n')
    config = load(BASE, {}, file)
    assert (config.workers, config.sinks) == (2, {"spare": {"type": "processor", "retries": 4}})
    file.write_text("sinks = 3\n")
    assert problems(BASE, {}, file) == [f"{file}: sinks: is not a set of tables [sinks.NAME]"]
