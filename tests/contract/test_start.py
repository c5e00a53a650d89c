"""The `.pth` line in a real site-packages: harmless to any program, and the root it settles."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from shipper.install import pth
from tests.kit import spools

pytestmark = pytest.mark.promise("G2")
LINE = spools.REPOSITORY / "spooler" / "lens_ship.pth"
OWN = "MINE = 'the program has a module of this name'\n"
USES_OWN = "import spooler\nprint(spooler.MINE)\n"
RECORDS = "import spooler.recorder as r\nassert r.recorder().record('step', {'a': 1})\n"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Site-packages of an environment with lens-ship, and behind it that of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "spooler").symlink_to(spools.REPOSITORY / "spooler")
    (site / "lens_ship.pth").write_text(LINE.read_text())
    (site / "z.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return site


def run(
    site: Path, folder: Path, *arguments: str, **environ: str | None
) -> subprocess.CompletedProcess[str]:
    """The environment's interpreter, with the hook on."""
    on = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": str(folder / "spool"), "PYTHONPATH": None, **environ}
    return subprocess.run(
        [site.parents[2] / "bin" / "python", *arguments],
        env=spools.environment(**on),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=spools.PATIENCE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("own", ["spooler.py", "spooler/__init__.py"])
@pytest.mark.parametrize("path", [None, "."])
def test_a_program_s_own_module_named_spooler_keeps_its_place(
    own: str, path: str | None, environment: Path, tmp_path: Path
) -> None:
    (tmp_path / own).parent.mkdir(exist_ok=True)
    (tmp_path / own).write_text(OWN)
    (tmp_path / "train.py").write_text(USES_OWN)
    done = run(environment, tmp_path, "train.py", PYTHONPATH=path)
    assert (done.stdout, done.stderr) == ("the program has a module of this name\n", "")


@pytest.mark.parametrize("first", ["import wandb\n", "import spooler, wandb\n"])
def test_beside_such_a_module_nothing_is_hooked_and_one_sentence_says_so(
    first: str, environment: Path, tmp_path: Path
) -> None:
    (tmp_path / "spooler.py").write_text(OWN)
    (tmp_path / "wandb.py").touch()
    (tmp_path / "train.py").write_text(first + USES_OWN)
    done = run(environment, tmp_path, "train.py")
    assert done.stdout == "the program has a module of this name\n"
    assert done.stderr.count("\n") == done.stderr.count("cannot hook wandb: `import spooler`") == 1


def test_an_older_python_gets_one_sentence_where_wandb_is_imported(
    environment: Path, tmp_path: Path
) -> None:
    (tmp_path / "wandb.py").touch()
    done = run(environment, tmp_path, "-c", "import sys; sys.version_info = (3, 8); import wandb")
    assert done.stderr.count("\n") == done.stderr.count("it needs Python 3.10 or later") == 1


@pytest.mark.parametrize("place", ["", "lens_ship_start.py", "hooks"])
def test_what_is_removed_or_unreadable_is_not_noticed(
    place: str, environment: Path, tmp_path: Path
) -> None:
    """A `--target` folder that is gone, a package that this user may not read."""
    venv.create(tmp_path / "env", symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "lens_ship.pth").write_text(LINE.read_text())
    if place:
        (site / "spooler").mkdir()
        (site / "spooler" / "__init__.py").touch()
        (site / "spooler" / place).mkdir()
    done = run(site, tmp_path, "-c", "print('trained')")
    assert (done.stdout, done.stderr) == ("trained\n", "")


@pytest.mark.parametrize("damaged", ["activate.py", "hooks/wandb.py"])
def test_a_damaged_package_does_not_fail_the_import_of_wandb(damaged: str, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    # Without what other processes are just writing there.
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(spools.REPOSITORY / "spooler", site / "spooler", ignore=ignored)
    (site / "spooler" / damaged).write_text("raise OSError('Stale file handle')\n")
    (site / "lens_ship.pth").write_text(LINE.read_text())
    (tmp_path / "wandb.py").touch()
    done = run(site, tmp_path, "-c", "import wandb; print('trained')")
    assert (done.returncode, done.stdout) == (0, "trained\n")
    assert done.stderr.count("\n") == done.stderr.count("Stale file handle") == 1


def test_hook_status_says_that_another_module_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": str(tmp_path / "spool")}
    environ = spools.environment(PYTHONPATH=str(spools.REPOSITORY), **root)
    (tmp_path / "spooler.py").write_text(OWN)
    assert pth._problem(environ) == ""
    monkeypatch.chdir(tmp_path)
    assert f"`import spooler` finds {tmp_path}/spooler.py" in pth._problem(environ)


@pytest.mark.parametrize("root", ["spool", "./spool/../spool\n", "~/spool"])
def test_the_root_is_settled_where_the_process_starts(
    root: str, environment: Path, tmp_path: Path
) -> None:
    """A program that changes its folder, and its children there, record in one place."""
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "child.py").write_text(RECORDS)
    (tmp_path / "train.py").write_text(
        "import os, subprocess, sys\nos.chdir('other')\n"
        f"{RECORDS}subprocess.run([sys.executable, '../child.py'], check=True)\n"
        "os.chdir('/')\nassert r.recorder().record('step', {'a': 2})\n"
    )
    changed = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": root, "HOME": str(tmp_path)}
    done = run(environment, tmp_path, "train.py", **changed)
    assert (done.returncode, done.stderr) == (0, "")
    found = [spools.kinds(path).count("step") for path in spools.spools_below(tmp_path / "spool")]
    assert sorted(found) == [1, 2]
    assert list(other.iterdir()) == []


def test_a_root_that_the_program_sets_is_settled_at_the_first_record(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    done = spools.python(
        "import os, sys; os.chdir(sys.argv[1])\n"
        "os.environ['PRIMUS_LENS_WANDB_OUTPUT_PATH'] = 'spool'\n"
        f"{RECORDS}os.chdir('other'); print(os.environ['PRIMUS_LENS_WANDB_OUTPUT_PATH'])\n"
        "assert r.recorder().record('step', {'a': 1})",
        tmp_path,
        PYTHONPATH=str(spools.REPOSITORY),
    )
    assert done.stdout == f"{tmp_path}/spool\n", done.stderr
    assert sorted(os.listdir(tmp_path)) == ["other", "spool"]


def test_an_installation_from_a_target_folder_says_what_it_needs(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", symlinks=True)
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    target = os.pathsep.join([str(spools.REPOSITORY), sysconfig.get_path("purelib")])
    installed = run(site, tmp_path, "-m", "shipper", "hook", "install", PYTHONPATH=target)
    assert "without PYTHONPATH a new Python process does not find the package" in installed.stdout
    assert (site / "lens_ship.pth").read_text() == LINE.read_text()
    done = run(site, tmp_path, "-c", "print('trained')")
    assert (done.stdout, done.stderr) == ("trained\n", "")
    status = run(site, tmp_path, "-m", "shipper", "hook", "status", PYTHONPATH=target)
    assert (status.returncode, status.stdout.splitlines()[-1]) == (0, "hook              active")


def test_hook_status_shows_each_tracker(tmp_path: Path, environment: Path) -> None:
    chosen = {
        "PRIMUS_LENS_TRACKERS": "tensorboard, foo, wandb",
        "PRIMUS_LENS_LOG_PATTERN": "loss {loss}",
        "PRIMUS_LENS_COLLECTORS": "true",
        "TRAINING_LOG_FILE": "/var/log/train.log",
    }
    library = tmp_path / "library"
    (library / "torch").mkdir(parents=True)
    (library / "torch" / "__init__.py").touch()
    places = [str(spools.REPOSITORY), str(library), sysconfig.get_path("purelib")]
    target = os.pathsep.join(places)
    done = run(
        environment, tmp_path, "-m", "shipper", "hook", "status", PYTHONPATH=target, **chosen
    )
    lines = {line[:18].strip(): line[18:] for line in done.stdout.splitlines()}
    assert re.fullmatch(r"[\d.]+", lines["wandb"])
    assert lines["mlflow"] == "not installed in this environment, off: PRIMUS_LENS_TRACKERS"
    assert lines["wrong value"].startswith(
        "PRIMUS_LENS_TRACKERS has unknown trackers: foo. Known are"
    )
    assert lines["log pattern"] == "PRIMUS_LENS_LOG_PATTERN cannot be used: it has no {step}"
    assert lines["collectors"] == (
        "log (/var/log/train.log), metric (off: XPU_TIMER_PORT is not set),"
        " stack (of one rank of a node)"
    )
    assert lines["they start with"] == "a run of a tracker, a training with torch installed"
    assert lines["hook"] == "active"


def test_hook_status_names_each_wrong_value(environment: Path, tmp_path: Path) -> None:
    names = ("SPOOL_MAX_BYTES", "COLLECTORS", "HANG_SECONDS", "WANDB_SAVE_LOCAL")
    wrong = {f"PRIMUS_LENS_{name}": "stacks" for name in names}
    target = os.pathsep.join([str(spools.REPOSITORY), sysconfig.get_path("purelib")])
    done = run(environment, tmp_path, "-m", "shipper", "hook", "status", PYTHONPATH=target, **wrong)
    lines = [line for line in done.stdout.splitlines() if line.startswith("wrong value ")]
    assert sorted(line.split()[2] for line in lines) == sorted(wrong)
    none = "collectors        none: PRIMUS_LENS_COLLECTORS names no known collector"
    assert none in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        ("wandb, mlfow", ["unknown trackers: mlfow", "mlflow is not recorded"]),
        ("wandb", ["mlflow is not recorded"]),
    ],
)
def test_a_tracker_that_is_left_out_is_reported(
    trackers: str, said: list[str], environment: Path, tmp_path: Path
) -> None:
    place = tmp_path / "mlflow" / "tracking" / "_tracking_service"
    place.mkdir(parents=True)
    (place / "client.py").touch()
    chosen = {"PRIMUS_LENS_TRACKERS": trackers, "PRIMUS_LENS_WANDB_DEBUG": "true"}
    code = "import mlflow.tracking._tracking_service.client"
    done = run(environment, tmp_path, "-c", code, **chosen)
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))
