"""The wheel in environments of its own: the training side alone, and the service."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest

import shipper.__main__ as entry
from tests.kit import spools
from tests.kit.spools import REPOSITORY

OURS = ("lens_ship", "spooler", "shipper", "msgpack")
TRAIN = """
import wandb
run = wandb.init(project="p", mode="offline")
for n in range(3):
    wandb.log({"loss": n + 0.5})
wandb.finish()
"""
# Follows every page that the help of a command names, and prints its name.
FOLLOW = """
import re
import click
from shipper.cli import cli
from shipper.docs import page

def helps(command, context):
    yield command.get_help(context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            yield from helps(one, click.Context(one, info_name=name, parent=context))

for text in helps(cli, click.Context(cli, info_name="lens-ship")):
    for topic in re.findall(r"lens-ship docs ([\\w/#-]+)`", " ".join(text.split())):
        page(topic)
        print(topic)
"""


def run(*command: str | Path, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=folder,
        env=spools.environment(**{"PYTHONPATH": "", **environ}),
        capture_output=True,
        text=True,
        timeout=10 * spools.PATIENCE_SECONDS,
        check=False,
    )


def output_of(*command: str | Path, folder: Path, **environ: str) -> str:
    done = run(*command, folder=folder, **environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("dist")
    output_of(sys.executable, "-m", "build", "--outdir", folder, REPOSITORY, folder=folder)
    return {path.suffix: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def install(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> object:
    def installed(extra: str) -> Path:
        """The folder of programs of a new environment."""
        folder = tmp_path_factory.mktemp("env")
        output_of(sys.executable, "-m", "venv", folder / "env", folder=folder)
        programs = folder / "env" / "bin"
        pip = (programs / "python", "-m", "pip", "install", "-q")
        constraints = ("-c", REPOSITORY / "constraints.txt")
        output_of(*pip, *constraints, f"{packages['.whl']}{extra}", folder=folder)
        return programs

    return installed


@pytest.fixture(scope="module")
def bare(install: object) -> Path:
    return install("")  # type: ignore[operator,no-any-return]


@pytest.fixture(scope="module")
def service(install: object) -> Path:
    return install("[service]")  # type: ignore[operator,no-any-return]


@pytest.fixture
def spool_root(bare: Path, tmp_path: Path) -> Path:
    """What a training script with real wandb records in the environment without the service."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        mine = path.name.removeprefix("_editable_impl_").startswith(OURS)
        if not mine and path.suffix != ".pth":
            (theirs / path.name).symlink_to(path)
    root = tmp_path / "spool"
    output_of(
        *(bare / "python", "-c", TRAIN),
        folder=tmp_path,
        PYTHONPATH=str(theirs),
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
        WORKLOAD_UID="w",
    )
    return root


def test_the_training_side_needs_msgpack_only(bare: Path, spool_root: Path, tmp_path: Path) -> None:
    listed = output_of(bare / "python", "-m", "pip", "list", "--format=freeze", folder=tmp_path)
    names = {line.partition("==")[0].partition(" @")[0] for line in listed.splitlines()}
    assert names - {"pip", "setuptools"} == {"lens-ship", "msgpack"}
    found = [spools.read_whole(directory) for directory in spools.spools_below(spool_root)]
    losses = [body["data"]["loss"] for one in found for body in one.bodies("step")]
    assert losses == [0.5, 1.5, 2.5]
    output_of(bare / "python", "-m", "spooler.activate", folder=tmp_path)
    for words in ([], ["run", "--once"], ["--help"], ["hook", "exprot", "x"]):
        done = run(bare / "lens-ship", *words, folder=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert len(done.stderr.splitlines()) == 1
        assert "pip install 'lens-ship[service]'" in done.stderr
    on = {"PRIMUS_LENS_WANDB_OUTPUT_PATH": str(spool_root)}
    status = output_of(bare / "lens-ship", "hook", "status", folder=tmp_path, **on)
    assert status.splitlines()[-1] == "hook              active"
    for done in (
        run(bare / "lens-ship", "hook", "status", folder=tmp_path),
        run(bare / "lens-ship", "hook", "export", spool_root, folder=tmp_path),
    ):
        assert done.returncode == 1
    assert done.stderr.startswith(f"lens-ship: {spool_root} exists and is not an exported hook;")
    for words in ("install", "uninstall", "install"):
        output_of(bare / "lens-ship", "hook", words, folder=tmp_path)
    assert "lens-ship hook" in output_of(bare / "lens-ship", "docs", "training", folder=tmp_path)
    output_of(bare / "lens-ship", "hook", "export", "hook", folder=tmp_path)
    assert (tmp_path / "hook" / "sitecustomize.py").exists()


def test_the_service_ships_what_the_training_side_recorded(
    service: Path, spool_root: Path, tmp_path: Path
) -> None:
    receiver = subprocess.Popen(
        [service / "lens-ship", "dev-server", "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        env=spools.environment(PYTHONPATH=""),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert receiver.stderr is not None
        url = re.search(r"http://\S+/v1", receiver.stderr.readline())
        assert url is not None
        where = ("--spool", spool_root, "--state", tmp_path / "state")
        command = (service / "lens-ship", "run", "--once", *where, "--processor-url", url[0])
        output_of(*command, folder=tmp_path)
        with urllib.request.urlopen(f"{url[0]}/workloads") as answer:
            assert b'"w"' in answer.read()
        output_of(service / "lens-ship", "audit", *where, folder=tmp_path)
    finally:
        receiver.terminate()
        receiver.communicate(timeout=spools.PATIENCE_SECONDS)
    grpc = "import shipper.sinks.dlrover.grpc_transport"
    output_of(service / "python", "-c", grpc, folder=tmp_path)
    output_of(service / "lens-ship", "hook", "export", tmp_path / "hook", folder=tmp_path)
    output_of(service / "lens-ship", "systemd", "install", "--root", tmp_path, folder=tmp_path)


def test_the_source_distribution_holds_the_tree_and_makes_the_same_wheel(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    """The wheel beside it was made of it."""
    with tarfile.open(packages[".gz"]) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    tracked = output_of("git", "ls-files", folder=REPOSITORY).splitlines()
    assert {one for one in tracked if not one.startswith((".ci/", ".gitignore"))} - held == set()
    build = (sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, REPOSITORY)
    output_of(*build, folder=tmp_path)
    contents = []
    for wheel in (packages[".whl"], next(tmp_path.glob("*.whl"))):
        with zipfile.ZipFile(wheel) as opened:
            contents.append({one.filename: one.CRC for one in opened.infolist()})
    assert contents[0] == contents[1]
    assert {"lens_ship.pth", "spooler/py.typed", "shipper/py.typed"} <= contents[0].keys()


def test_the_source_distribution_holds_what_its_dockerfile_copies(
    packages: dict[str, Path], tmp_path: Path
) -> None:
    with tarfile.open(packages[".gz"]) as source:
        source.extractall(tmp_path, filter="data")
    (tree,) = tmp_path.iterdir()
    copied = [
        name
        for line in (tree / "Dockerfile").read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    ]
    assert len(copied) > 5
    assert [name for name in copied if not (tree / name).exists()] == []


def test_everything_that_the_help_names_is_a_page_of_the_wheel(
    service: Path, tmp_path: Path
) -> None:
    named = output_of(service / "python", "-c", FOLLOW, folder=tmp_path).split()
    assert "monitoring" in named
    pages = output_of(service / "lens-ship", "docs", folder=tmp_path)
    share = Path(pages.splitlines()[-1].rpartition(": ")[2])
    assert share.is_relative_to(service.parent.resolve())
    rules = (share / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8")
    (runbook, *_) = re.findall(r"runbook: lens-ship docs (\S+)", rules)
    assert "### LensShip" in output_of(service / "lens-ship", "docs", runbook, folder=tmp_path)


def test_the_pages_can_be_read_where_only_the_training_side_is(bare: Path, tmp_path: Path) -> None:
    assert "\ntraining " in output_of(bare / "lens-ship", "docs", folder=tmp_path)
    page = output_of(bare / "lens-ship", "docs", "training", folder=tmp_path)
    assert page == (REPOSITORY / "docs" / "training.md").read_text(encoding="utf-8")
    done = run(bare / "lens-ship", "docs", "trainig", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Similar: training, " in done.stderr


def test_the_entry_point_looks_for_every_library_of_the_service() -> None:
    """The gRPC library is looked for when a gRPC master is met."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {
        re.split(r"[>;]", one)[0].replace("-", "_")
        for one in project["optional-dependencies"]["service"]
        if "python_version" not in one or sys.version_info < (3, 11)
    }
    assert needed - {"grpcio"} == set(entry._LIBRARIES)
