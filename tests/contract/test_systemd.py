"""The unit, judged by systemd's own tools, and the command that writes it for an environment."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from shipper.cli import cli
from shipper.errors import ConfigError
from shipper.install import systemd
from shipper.service import STOP_SECONDS
from tests.kit.command import commands_of, lens_ship
from tests.kit.spools import PATIENCE_SECONDS, REPOSITORY

UNIT = REPOSITORY / "systemd" / "lens-ship.service"
MOST_EXPOSURE = 1.5

with_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="needs systemd-analyze, of Debian's package systemd",
)


def analyze(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        env={**os.environ, "SYSTEMD_PAGER": "cat", "SYSTEMD_COLORS": "0", **environ},
    )


def values(text: str, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def written(root: Path, name: str) -> Path:
    (path,) = root.rglob(name)
    return path


@with_systemd
@pytest.mark.parametrize("scope", [(), ("--user",)], ids=["system", "user"])
def test_systemd_accepts_the_installed_files(scope: tuple[str, ...], tmp_path: Path) -> None:
    ran = lens_ship("systemd", "install", "--root", str(tmp_path), *scope)
    assert ran.code == 0, ran.err
    unit = written(tmp_path, "lens-ship.service")
    options = ("--man=no", "--recursive-errors=no", *scope)
    done = analyze("verify", *options, str(unit), XDG_RUNTIME_DIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@with_systemd
def test_the_sandbox_leaves_little_open() -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(UNIT))
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert float(exposure) <= MOST_EXPOSURE


def test_the_unit_gives_the_service_the_time_that_it_takes_to_stop() -> None:
    (seconds,) = values(UNIT.read_text(encoding="utf-8"), "TimeoutStopSec")
    assert float(seconds) > STOP_SECONDS


def test_the_command_line_names_this_environments_program(tmp_path: Path) -> None:
    for scope in ((), ("--user",)):
        assert lens_ship("systemd", "install", "--root", str(tmp_path), *scope).code == 0
    for unit in tmp_path.rglob("lens-ship.service"):
        text = unit.read_text(encoding="utf-8")
        (line,) = values(text, "ExecStart")
        program, name, *arguments = shlex.split(line)
        assert program == str(Path(sys.executable).parent / "lens-ship")
        # Below its group, as a shell calls it: click keeps the help option of the first context.
        above = click.Context(cli, **cli.context_settings)
        taken = commands_of(cli)[name].make_context(name, arguments, parent=above).params
        assert taken["once"] is False
        assert values(text, "RestartPreventExitStatus") == [str(ConfigError.exit_code)]
        assert values(text, "ExecStartPre") == []  # its code would not count
        (environment,) = values(text, "EnvironmentFile")
        home = str(Path.home() / ".config")
        file = tmp_path / environment.replace("%E", home).removeprefix("/")
        assert values(file.read_text(encoding="utf-8"), "LENS_SHIP_SPOOL")


def test_another_root_is_written_to_every_file(tmp_path: Path) -> None:
    ran = lens_ship("systemd", "install", "--root", str(tmp_path), "--spool", "/data/spool")
    assert ran.code == 0, ran.err
    texts = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert len(texts) == 4
    assert not any(systemd.DEFAULT_SPOOL in text for text in texts)
    assert sum("/data/spool" in text for text in texts) == 3


def test_settings_that_cannot_be_used_end_the_service_with_the_code_of_the_unit(
    tmp_path: Path,
) -> None:
    assert lens_ship("systemd", "install", "--root", str(tmp_path)).code == 0
    (code,) = values(written(tmp_path, "lens-ship.service").read_text(), "RestartPreventExitStatus")
    ran = lens_ship("run", LENS_SHIP_SPOOL=str(tmp_path), LENS_SHIP_WORKERS="none")
    assert ran.code == int(code)
    assert "LENS_SHIP_WORKERS" in ran.err


def test_what_is_installed_passes_its_own_check(tmp_path: Path) -> None:
    assert lens_ship("systemd", "install", "--root", str(tmp_path)).code == 0
    text = written(tmp_path, "lens-ship.env").read_text(encoding="utf-8")
    given = dict(line.split("=", 1) for line in text.split("\n") if line.startswith("LENS_SHIP_"))
    state = {"STATE_DIRECTORY": str(tmp_path)}
    ran = lens_ship("check", "--config-only", **given, **state)
    assert ran.code == 0, ran.out + ran.err
    ran = lens_ship("check", "--config-only", **given, **state, LENS_SHIP_WORKERS="none")
    assert ran.code == 2


@pytest.mark.parametrize("spool", ["/data/my spool", "/data/50%", "/da'ta"])
def test_a_root_that_a_unit_cannot_name_is_rejected(spool: str, tmp_path: Path) -> None:
    ran = lens_ship("systemd", "install", "--root", str(tmp_path), "--spool", spool)
    assert ran.code == 1
    assert "give an absolute path" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_program_with_odd_letters_in_its_path_is_quoted(tmp_path: Path) -> None:
    program = Path("/opt/my $tools/100%/lens-ship")
    unit, *_ = systemd.plan(user=False, root=tmp_path, spool="/s", program=program)
    assert values(unit.text, "ExecStart") == ['"/opt/my $$tools/100%%/lens-ship" run']


def test_a_file_that_was_changed_is_not_overwritten_without_force(tmp_path: Path) -> None:
    install = ("systemd", "install", "--root", str(tmp_path))
    assert lens_ship(*install).code == 0
    unit = written(tmp_path, "lens-ship.service")
    whole = unit.read_text(encoding="utf-8")
    unit.write_text(whole.replace("WatchdogSec=90", "WatchdogSec=10"), encoding="utf-8")
    changed = unit.read_text(encoding="utf-8")
    rules = written(tmp_path, "tmpfiles.d") / "lens-ship.conf"
    rules.unlink()
    ran = lens_ship(*install)
    assert ran.code == 1
    assert f"{unit} was changed by hand" in ran.err
    assert "--force" in ran.err
    assert unit.read_text(encoding="utf-8") == changed
    assert not rules.exists()
    assert "was changed by hand" in lens_ship(*install, "--dry-run").err
    assert f"to write {rules}" in lens_ship(*install, "--dry-run", "--force").out
    assert not rules.exists()
    assert lens_ship(*install, "--force").code == 0
    assert unit.read_text(encoding="utf-8") == whole
    assert rules.exists()


def test_a_file_of_an_older_version_is_replaced(tmp_path: Path) -> None:
    first = systemd.plan(user=False, root=tmp_path, spool="/one")
    systemd.install(first, force=False)
    second = systemd.plan(user=False, root=tmp_path, spool="/two")
    assert [file.state() for file in second] == ["outdated", "current", "outdated", "changed"]
    lines = systemd.install(second, force=False)
    assert [line.split()[0] for line in lines] == ["written", "kept", "written", "kept"]


def test_the_environment_file_is_never_replaced(tmp_path: Path) -> None:
    install = ("systemd", "install", "--root", str(tmp_path))
    assert lens_ship(*install).code == 0
    environment = written(tmp_path, "lens-ship.env")
    environment.write_text("LENS_SHIP_SPOOL=/mine\n", encoding="utf-8")
    assert lens_ship(*install, "--force").code == 0
    assert environment.read_text(encoding="utf-8") == "LENS_SHIP_SPOOL=/mine\n"
    ran = lens_ship("systemd", "uninstall", "--root", str(tmp_path), "--force")
    assert ran.code == 0
    assert f"kept     {environment}" in ran.out
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [environment]


def test_uninstall_deletes_the_link_of_enable_and_says_that_the_service_runs(
    tmp_path: Path,
) -> None:
    assert lens_ship("systemd", "install", "--user", HOME=str(tmp_path)).code == 0
    wants = tmp_path / ".config/systemd/user/default.target.wants"
    wants.mkdir()
    (wants / "lens-ship.service").symlink_to(wants.parent / "lens-ship.service")
    done = lens_ship("systemd", "uninstall", "--user", HOME=str(tmp_path))
    assert list(wants.iterdir()) == []
    assert "still runs" in done.out
    assert "systemctl --user stop lens-ship" in done.out


def test_a_unit_that_uninstall_keeps_stays_enabled(tmp_path: Path) -> None:
    assert lens_ship("systemd", "install", "--user", HOME=str(tmp_path)).code == 0
    unit = tmp_path / ".config/systemd/user/lens-ship.service"
    unit.write_text(f"{unit.read_text(encoding='utf-8')}# mine\n", encoding="utf-8")
    link = unit.parent / "default.target.wants" / unit.name
    link.parent.mkdir()
    link.symlink_to(unit)
    done = lens_ship("systemd", "uninstall", "--user", HOME=str(tmp_path))
    assert f"kept     {unit}" in done.out
    assert link.exists()


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("systemd-sysusers") is None,
    reason="needs root and Debian's package systemd",
)
def test_the_next_steps_of_an_image_make_a_service_that_its_boot_starts(tmp_path: Path) -> None:
    where = ["--root", str(tmp_path)]
    _, steps = lens_ship("systemd", "install", *where).out.split("Next:\n")
    for step in steps.splitlines():
        if "$EDITOR" not in step:
            done = subprocess.run(shlex.split(step), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    assert "lens-ship:x:" in (tmp_path / "etc/passwd").read_text(encoding="utf-8")
    asked = ["systemctl", f"--root={tmp_path}", "is-enabled", "lens-ship"]
    assert subprocess.run(asked, capture_output=True, text=True).stdout == "enabled\n"
    done = lens_ship("systemd", "uninstall", *where)
    assert "multi-user.target.wants" in done.out
    assert "Next" not in done.out
    assert not list(tmp_path.rglob("lens-ship.*"))


@pytest.mark.parametrize(
    ("spool", "setting"),
    [("/home/me/spool", "ProtectHome"), ("/tmp/spool", "PrivateTmp"), ("/data/spool", "")],
)
def test_a_root_that_the_sandbox_hides_is_told(spool: str, setting: str, tmp_path: Path) -> None:
    where = ("--root", str(tmp_path), "--spool", spool)
    told = lens_ship("systemd", "install", *where).err
    assert (f"--spool is in {spool}, which the service cannot see ({setting}=yes)" in told) == bool(
        setting
    )
    assert "warning" not in lens_ship("systemd", "install", "--user", *where).err
    unit = written(tmp_path / "etc", "lens-ship.service").read_text(encoding="utf-8")
    assert not setting or values(unit, setting) == ["yes"]


@pytest.mark.parametrize(("user", "step"), [(True, "set HOME"), (False, "give --user")])
def test_a_permission_that_is_missing_has_a_step_for_this_kind_of_service(
    user: bool, step: str, tmp_path: Path
) -> None:
    file, *_ = systemd.plan(user=user, root=tmp_path, spool="/s")
    told = str(systemd._cannot(file, PermissionError(errno.EACCES, "Permission denied")))
    assert step in told
    assert ("--user" in told) != user


def test_a_user_service_that_cannot_be_written_is_not_told_to_give_user(tmp_path: Path) -> None:
    (tmp_path / Path.home().parts[1]).write_text("")
    done = lens_ship("systemd", "install", "--user", "--root", str(tmp_path))
    assert done.code == 1
    assert "Not a directory" in done.err
    assert "--user" not in done.err


def test_uninstall_deletes_every_file(tmp_path: Path) -> None:
    where = ("--root", str(tmp_path))
    assert lens_ship("systemd", "install", *where).code == 0
    assert lens_ship("systemd", "uninstall", *where).code == 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "nothing is installed" in lens_ship("systemd", "uninstall", *where).out


def test_an_unwritable_directory_is_reported_with_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("in the way", encoding="utf-8")
    ran = lens_ship("systemd", "install", "--root", str(tmp_path))
    assert ran.code == 1
    assert "lens-ship.service: Not a directory. Files after it are not changed" in ran.err
    assert "Correct that and run it again" in ran.err


def test_the_wheel_carries_the_files_that_are_installed() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["systemd"] == "shipper/share/systemd", json.dumps(included)
