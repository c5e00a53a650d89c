"""The command line: every command explains itself, and wrong input is told apart and explained."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import spooler
from shipper import cli as room
from shipper.config.schema import SETTINGS, Config
from shipper.errors import ConfigError
from tests.kit.certificates import Authority
from tests.kit.command import commands_of, lens_ship

BY_NAME = {setting.name: setting for setting in SETTINGS}
OTHER = {
    "dlrover_address": "master-0.jobs:50001",
    "dlrover_protocol": "http",
    "dlrover_client": "package.module:Client",
    "dlrover_message_bytes": 2048,
    "dlrover_max_age": 0.0,
    "dlrover_wait_for_endpoint": 60.0,
    "dlrover_proxy": "environment",
    "spool": "/other/spool",
    "state": "/other/state",
    "processor_url": "http://host:8989/v1",
    "batch_max_steps": 7,
    "flush_interval": 0.5,
    "batch_max_bytes": 2048,
    "connect_timeout": 1.5,
    "drain_seconds": 25.0,
    "read_timeout": 90.0,
    "token_file": "TOKEN",
    "cookie_file": "COOKIE",
    "ca_file": "CA",
    "client_cert_file": "CERT",
    "client_key_file": "KEY",
    "proxy": "environment",
    "drop_non_numeric": True,
    "rank_prefix": False,
    "run_prefix": False,
    "api_reporting": False,
    "save_local": False,
    "retention_seconds": 60.0,
    "retention_bytes": 1000,
    "root_bytes": 5000,
    "when_full": "drop-oldest",
    "dead_letter_count": 5,
    "dead_letter_bytes": 500,
    "quarantine_bytes": 700,
    "rescan_interval": 1.0,
    "pod_directories": True,
    "workers": 2,
    "step_keys": "my/step",
    "log_level": "debug",
    "log_format": "logfmt",
    "http_listen": "127.0.0.1:7000",
    "log_repeat_seconds": 0.0,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command makes where it is run does not stay."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command and group that there is."""
    yield path
    for name, command in commands_of(group).items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = sorted(commands(room.cli))


def found(path: tuple[str, ...]) -> click.Command:
    command: click.Command = room.cli
    for name in path:
        assert isinstance(command, click.Group)
        command = commands_of(command)[name]
    return command


def invoke(*arguments: str, environ: Mapping[str, str] | None = None) -> Result:
    """Run in this process, without the settings of this one."""
    cleared: dict[str, str | None] = {
        name: None for name in os.environ if name.startswith(("LENS_SHIP_", "PRIMUS_LENS_"))
    }
    return CliRunner().invoke(room.cli, arguments, env={**cleared, **(environ or {})})


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_explains_itself(path: tuple[str, ...], option: str) -> None:
    result = invoke(*path, option)
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")
    command = found(path)
    assert command.help
    assert command.help.split("\n")[0].split(".")[0].split()[0] in result.output


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_of_every_command_is_explained(path: tuple[str, ...]) -> None:
    for parameter in found(path).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts


def test_the_help_of_run_names_every_setting_with_its_default() -> None:
    words = " ".join(invoke("run", "--help").output.split()).replace("- ", "-")
    for setting in SETTINGS:
        assert setting.flag in words
        if setting.default_text:
            assert f"[default: {setting.default_text}]" in words, setting.name


def test_the_version_is_told() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert result.output.startswith("lens-ship, version ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ship"],
        ["run", "--colour", "red"],
        ["run", "--once", "--timeout", "soon", "--spool", "s"],
        ["run", "--once", "--timeout", "0", "--spool", "s"],
        ["run", "extra"],
        ["dev-server", "--listen", "host:"],
        ["dev-server", "--listen", "127.0.0.1:99999"],
        ["dev-server", "--listen", "127.0.0.1:0", "--data", "no/such/folder/x.sqlite"],
        ["dev-server", "--listen", "host:port"],
        ["dead-letter"],
        ["dead-letter", "show"],
        ["dead-letter", "show", "one"],
        ["hook", "repair"],
        ["run", "--config", "."],
    ],
    ids=" ".join,
)
def test_wrong_words_are_told_apart_with_code_2(arguments: list[str]) -> None:
    done = lens_ship(*arguments)
    assert done.code == 2
    assert done.err
    assert "Traceback" not in done.err
    assert done.out == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--processor-url", "host:8989"],
            "--processor-url: 'host:8989' is not an http:// or https://",
        ),
        (["--batch-max-steps", "many"], "--batch-max-steps: 'many'"),
        (["--workers", "0"], "--workers: '0' is outside 1 … 64"),
        (["--log-level", "loud"], "--log-level: 'loud' is not one of debug"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(arguments: list[str], told: str) -> None:
    done = lens_ship("run", "--once", "--spool", "s", *arguments)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith("lens-ship: ")
    assert told in line


@pytest.mark.parametrize("command", ["list", "retry", "drop"])
@pytest.mark.parametrize("option", ["--reason", "--of", "--sink"])
def test_a_selection_that_nothing_can_match_is_refused(
    command: str, option: str, tmp_path: Path
) -> None:
    (tmp_path / "spool").mkdir()
    places = {
        "LENS_SHIP_SPOOL": str(tmp_path / "spool"),
        "LENS_SHIP_STATE": str(tmp_path / "state"),
        "LENS_SHIP_PROCESSOR_URL": "http://127.0.0.1:9/v1",
    }
    assert lens_ship("run", "--once", **places).code == 0
    done = lens_ship("dead-letter", command, option, "too-larg", **places)
    assert (done.code, done.out) == (2, "")
    assert f"Invalid value for {option}: 'too-larg' is not known here" in done.err
    if option == "--reason":
        assert "Similar: 'too-large'" in done.err
        assert lens_ship("dead-letter", command, option, "too-large", **places).code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ["dead-letter", "drop", "--yes", option, ""]
            for option in ("--reason", "--of", "--sink")
        ),
        ["dead-letter", "retry", "--reason", " "],
        ["quarantine", "drop", "--yes", ""],
        ["replay", "--resend-delivered", "--workload", ""],
        ["replay", "--resend-delivered", "--run", "\udcff"],
        ["replay", "--resend-delivered", "--first-step", str(2**63)],
        ["replay", "--resend-delivered", "--rate", "nan"],
        ["replay", ""],
        ["run", "--once", "--timeout", "nan"],
        ["run", "--once", "--timeout", "inf"],
        ["status", "--watch", "nan"],
        ["status", "--spool-id", ""],
        ["tail", "--run", ""],
        ["tail", ""],
        ["init-root", "", "--owner", "1:1"],
        ["hook", "export", ""],
        ["dev-server", "--data", ""],
        ["status", "--config", ""],
    ],
    ids=repr,
)
def test_an_empty_or_endless_value_is_refused_and_selects_nothing(
    arguments: list[str], tmp_path: Path
) -> None:
    """It comes from a variable of a script that is not set."""
    (tmp_path / "spool").mkdir()
    places = {
        "LENS_SHIP_SPOOL": str(tmp_path / "spool"),
        "LENS_SHIP_STATE": str(tmp_path / "state"),
        "LENS_SHIP_PROCESSOR_URL": "http://127.0.0.1:9/v1",
    }
    assert lens_ship("run", "--once", **places).code == 0
    done = lens_ship(*arguments, **places)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version_is_printed(flag: str) -> None:
    done = lens_ship(flag)
    assert (done.code, done.out) == (0, f"lens-ship, version {spooler.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["statsu"], "No such command 'statsu'. Did you mean 'status'?"),
        (["replay", "--sink", "procesor"], "'procesor' is not one of 'processor'"),
        (["tail", "--kind", "step", "--kind", "steps"], "'steps' is not one of 'run', 'step'"),
        (["run", "--workers", "x"], "--workers: 'x' is not a whole number"),
        (["run", "--flush-interval", "x"], "--flush-interval: 'x' is not a number"),
    ],
)
def test_a_word_that_nothing_has_is_refused(
    arguments: list[str], told: str, tmp_path: Path
) -> None:
    """It would find nothing, which looks as if there were nothing."""
    (tmp_path / "spool").mkdir()
    places = {"LENS_SHIP_SPOOL": str(tmp_path / "spool"), "LENS_SHIP_STATE": str(tmp_path / "s")}
    done = lens_ship(*arguments, **places)
    assert done.code == 2
    assert told in done.err


def test_the_commands_of_a_group_are_listed_with_whole_sentences() -> None:
    for group in ("hook", "systemd", "dead-letter", "quarantine", "config"):
        _, listed = lens_ship(group, "--help", COLUMNS="80").out.split("Commands:")
        assert "..." not in listed, group


def test_a_key_of_the_file_that_was_misspelt_is_told_with_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "lens.toml").write_text("batchmaxsteps = 3\n")
    done = lens_ship("config", "show", "--config", str(tmp_path / "lens.toml"))
    told = "batchmaxsteps: unknown setting; did you mean batch_max_steps?"
    assert (done.code, done.err) == (2, f"lens-ship: {tmp_path}/lens.toml: {told}\n")


def test_every_setting_that_cannot_be_used_has_a_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("workers = 0\ncolour = 'red'\n")
    done = lens_ship(
        "run", "--config", str(file), "--batch-max-steps", "0", LENS_SHIP_READ_TIMEOUT="x"
    )
    assert done.code == 2
    lines = done.err.splitlines()
    assert all(line.startswith("lens-ship: ") for line in lines)
    told = ("workers", "colour", "--batch-max-steps", "LENS_SHIP_READ_TIMEOUT", "no spool root")
    assert all(any(word in line for line in lines) for word in told)
    assert len(lines) == 5


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("workers = = 1")
    done = lens_ship("run", "--spool", "s", LENS_SHIP_CONFIG=str(tmp_path / "bad.toml"))
    assert done.code == 2
    assert str(tmp_path / "bad.toml") in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--once", "--spool", "s"],
        ["audit", "--spool", "s"],
        ["dead-letter", "list"],
        ["dead-letter", "retry", "--spool", "s"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_state_that_cannot_be_used_ends_with_code_4_and_a_next_step(
    tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    done = lens_ship(*arguments, "--state", str(tmp_path / "file"))
    assert done.code == 4
    assert done.err.startswith("lens-ship: ")
    assert "--state" in done.err
    assert "Traceback" not in done.err


class Loaded(Exception):
    """Ends a command when its settings are known."""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `lens-ship run` as far as its settings and return those."""
    seen: list[Config] = []

    def stop(config: Config, **_: Any) -> None:
        seen.append(config)
        raise Loaded

    monkeypatch.setattr("shipper.service.ship_once", stop)
    monkeypatch.setattr("shipper.log.start", lambda *_, **__: None)

    def run(*arguments: str, environ: Mapping[str, str] | None = None) -> Config:
        result = invoke("run", "--once", *arguments, environ=environ)
        assert isinstance(result.exception, Loaded), (result.output, result.exception)
        return seen.pop()

    return run


def toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool | int | float) else f"'{value}'"


# What a setting makes no sense without.
WITH = {
    "token_file": ("--processor-url", "http://host/v1"),
    "cookie_file": ("--processor-url", "http://host/v1"),
    "client_cert_file": ("--processor-url", "http://host/v1", "--client-key-file", "KEY"),
    "client_key_file": ("--processor-url", "http://host/v1", "--client-cert-file", "CERT"),
}


@pytest.fixture(scope="module")
def credentials(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """The files that the settings in `OTHER` name, by name."""
    files = Authority(tmp_path_factory.mktemp("authority")).files("shipper")
    pems = {"CA": files.ca, "CERT": files.cert, "KEY": files.key}
    return {
        **{name: path.read_bytes() for name, path in pems.items()},
        "TOKEN": b"t",
        "COOKIE": b"c=1",
    }


def test_there_is_another_value_here_for_every_setting() -> None:
    assert OTHER.keys() == BY_NAME.keys()


@pytest.mark.parametrize("name", sorted(OTHER))
def test_flag_variable_and_file_mean_the_same(
    load: Any, tmp_path: Path, credentials: Mapping[str, bytes], name: str
) -> None:
    for file_name, content in credentials.items():
        Path(file_name).write_bytes(content)
    value = OTHER[name]
    base = {key: str(tmp_path / key) for key in ("spool", "state") if key != name}
    flags = [word for key, path in base.items() for word in (f"--{key}", path)]
    flags += WITH.get(name, ())
    file = tmp_path / "settings.toml"
    file.write_text(f"{name} = {toml(value)}\n")
    setting = BY_NAME[name]
    configs = [
        load(*flags, setting.flag, str(value)),
        load(*flags, environ={setting.variable: str(value)}),
        load(*flags, "--config", str(file)),
        load(*flags, environ={"LENS_SHIP_CONFIG": str(file)}),
    ]
    if setting.alias:
        configs.append(load(*flags, environ={setting.alias: str(value)}))
    values = [getattr(config, name) for config in configs]
    assert [str(one) for one in values] == [str(value)] * len(values)


def test_the_command_line_comes_first(load: Any, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("workers = 3\n")
    environ = {
        "LENS_SHIP_WORKERS": "2",
        "LENS_SHIP_CONFIG": str(tmp_path / "settings.toml"),
        "LENS_SHIP_STATE": str(tmp_path / "state"),  # not the one of this machine
    }
    assert load("--spool", "s", "--workers", "1", environ=environ).workers == 1
    assert load("--spool", "s", environ=environ).workers == 2
    del environ["LENS_SHIP_WORKERS"]
    assert load("--spool", "s", environ=environ).workers == 3


def test_settings_that_cannot_be_used_are_one_exception_for_callers() -> None:
    assert isinstance(invoke("run", "--once").exception, ConfigError)


def test_a_root_that_nothing_can_be_recorded_in_is_told_by_hook_status(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    drops = "active, but records would be dropped: see above"
    for root, told, ends, code in (
        (tmp_path / "file", f"{tmp_path}/file is not a directory", drops, 1),
        (
            tmp_path / "file" / "b",
            f"{tmp_path}/file/b: {tmp_path}/file is not a directory",
            drops,
            1,
        ),
        (tmp_path, f"{tmp_path}: writable", "active", 0),
        (tmp_path / "new", f"{tmp_path}/new: the first job creates it", "active", 0),
    ):
        done = lens_ship("hook", "status", PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root))
        *_, line, last = done.out.splitlines()
        assert line.startswith(f"spool root        {told}")
        assert (last, done.code) == (f"hook              {ends}", code)


def test_a_shell_completes_commands_and_options() -> None:
    def complete(words: str, at: int) -> list[str]:
        shell = {"COMP_WORDS": words, "COMP_CWORD": str(at), "_LENS_SHIP_COMPLETE": "bash_complete"}
        code = "import sys; sys.argv = ['lens-ship']; from shipper.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **shell},
            capture_output=True,
            text=True,
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert complete("lens-ship stat", 1) == ["status"]
    assert "--spool" in complete("lens-ship status --s", 2)


def test_what_the_system_refuses_is_told_in_one_line() -> None:
    """Here a command's module, which is loaded when it is called."""
    code = (
        "import resource, sys; from shipper.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "sys.argv = ['lens-ship', 'replay', '/nowhere']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Too many open files" in line
    assert line.startswith("lens-ship: ")
    assert line.endswith("Correct this, then try again.")
