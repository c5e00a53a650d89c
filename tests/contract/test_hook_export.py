"""A folder on PYTHONPATH hooks a Python in which nothing of ours is installed, with real wandb."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.kit import spools
from tests.kit.command import lens_ship

TRAIN = """
import wandb
run = wandb.init(project="p", mode="offline")
for n in range(3):
    wandb.log({"loss": n + 0.5})
wandb.finish()
"""
OURS = ("lens_ship", "spooler", "shipper", "msgpack")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python environment with wandb and nothing of ours, as a training image has it."""
    folder = tmp_path_factory.mktemp("image") / "env"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        check=True,
        timeout=spools.PATIENCE_SECONDS,
    )
    site = next((folder / "lib").glob("python*/site-packages"))
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        mine = path.name.removeprefix("_editable_impl_").startswith(OURS)
        if not mine and path.suffix != ".pth":
            (site / path.name).symlink_to(path)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hook") / "python"
    ran = lens_ship("hook", "export", str(folder))
    assert ran.code == 0, ran.err
    return folder


def python(image: Path, code: str, folder: Path, **environ: str | None) -> str:
    done = subprocess.run(
        [image, "-c", code],
        env=spools.environment(**environ),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=spools.PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_two_variables_are_enough_to_record(image: Path, hook: Path, tmp_path: Path) -> None:
    root = tmp_path / "spool"
    said = python(
        image,
        TRAIN,
        tmp_path,
        PYTHONPATH=str(hook),
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
        WANDB_MODE="offline",
    )
    found = [spools.read_whole(directory) for directory in spools.spools_below(root)]
    steps = [body for one in found for body in one.bodies("step")]
    assert [body["data"]["loss"] for body in steps] == [0.5, 1.5, 2.5]
    assert "msgpack" not in said


def test_another_python_records_everything_and_is_told_that_it_is_slower(
    image: Path, tmp_path: Path
) -> None:
    """It finds no compiled part of its own: as without any."""
    mine, root = tmp_path / "python", tmp_path / "spool"
    told = lens_ship("hook", "export", str(mine)).out.splitlines()
    (compiled,) = (mine / "packages" / "msgpack").glob("*.so")
    assert told[0].startswith(f"{mine} written: Python 3.10 or later")
    assert told[1].startswith(f"compiled for {sysconfig.get_config_var('SOABI')}: any other")
    compiled.unlink()
    said = python(
        image,
        TRAIN,
        tmp_path,
        PYTHONPATH=str(mine),
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
        WANDB_MODE="offline",
    )
    assert said.count("msgpack is not compiled for this Python") == 1
    (found,) = [spools.read_whole(directory) for directory in spools.spools_below(root)]
    assert [body["data"]["loss"] for body in found.bodies("step")] == [0.5, 1.5, 2.5]


def test_a_job_of_exec_is_hooked_in_an_environment_without_anything_of_ours(
    image: Path, tmp_path: Path
) -> None:
    root = tmp_path / "spool"
    places = ("--spool", str(root), "--state", str(tmp_path / "state"))
    (tmp_path / "train.py").write_text(TRAIN, encoding="utf-8")
    for _ in range(2):  # the second time with the links of the first
        job = (str(image), str(tmp_path / "train.py"))
        ran = lens_ship("exec", "--drain", "0", *places, "--", *job, WANDB_DIR=str(tmp_path))
        assert ran.code == 0, ran.err
    found = [spools.read_whole(directory) for directory in spools.spools_below(root)]
    assert [len(one.bodies("step")) for one in found] == [3, 3]
    assert len(list((tmp_path / "state" / "hook").iterdir())) == 1


def test_what_the_environment_has_itself_comes_first(
    image: Path, hook: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "msgpack"
    theirs.mkdir()
    (theirs / "__init__.py").touch()
    code = "import msgpack, spooler; print(msgpack.__file__)"
    path = f"{hook}:{tmp_path}"
    found = python(image, code, tmp_path, PYTHONPATH=path)
    assert found.strip() == str(theirs / "__init__.py")


def test_the_image_contains_nothing_of_lens_ship(image: Path, tmp_path: Path) -> None:
    code = "import importlib.util as u; print([u.find_spec(n) for n in ('spooler', 'msgpack')])"
    assert python(image, code, tmp_path, PYTHONPATH=None) == "[None, None]\n"


def test_without_the_spool_root_the_folder_loads_nothing(
    image: Path, hook: Path, tmp_path: Path
) -> None:
    code = "import sys; print([n for n in sys.modules if n.startswith(('spooler', 'msgpack'))])"
    assert python(image, code, tmp_path, PYTHONPATH=str(hook)) == "[]\n"


def test_the_hidden_sitecustomize_still_runs(image: Path, hook: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("MARK = 'theirs'\n", encoding="utf-8")
    code = "import sys; print(sys.modules['sitecustomize'].MARK)"
    assert python(image, code, tmp_path, PYTHONPATH=f"{hook}:{other}") == "theirs\n"


def test_python_starts_with_a_broken_hook(image: Path, hook: Path, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    assert lens_ship("hook", "export", str(broken)).code == 0
    start = broken / "packages" / "spooler" / "lens_ship_start.py"
    start.write_text("raise OSError\n", encoding="utf-8")
    said = python(
        image,
        "print('trained')",
        tmp_path,
        PYTHONPATH=str(broken),
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path / "spool"),
    )
    assert said == "trained\n"


def test_an_earlier_export_is_replaced_and_any_other_directory_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "python"
    assert lens_ship("hook", "export", str(folder)).code == 0
    (folder / "packages" / "spooler" / "of_an_older_version.py").touch()
    assert lens_ship("hook", "export", str(folder)).code == 0
    assert not (folder / "packages" / "spooler" / "of_an_older_version.py").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["python"]
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    ran = lens_ship("hook", "export", str(mine))
    assert ran.code == 1
    assert "not an exported hook" in ran.err
    assert (mine / "thesis.tex").exists()
