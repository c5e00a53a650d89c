"""One spool root for users who do not trust each other: real uids, and the root as it is installed.

The service, a user of its own, delivers and deletes the spools of all users. No other user can
read, delete, rename or stop the recording of a spool.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver

ALICE, BOB, SERVICE = 61001, 61002, 61003
GROUP = 61009
ROOT = Path("var/spool/lens-ship")
TMPFILES = spools.REPOSITORY / "systemd" / "lens-ship.tmpfiles.conf"

# Everything is imported first: the interpreter may stand where other users cannot go.
BECOME = """
import json, os, sys
from pathlib import Path
from spooler.recorder import recorder
def become(uid, gid, umask):
    os.umask(umask)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
"""
RECORD = (
    BECOME
    + """
become(int(sys.argv[1]), int(sys.argv[1]), int(sys.argv[2], 8))
taken = [
    recorder().record("step", {"run": "r", "step": n, "time": 1.0 + n, "closed": True,
                               "data": {"loss": n + 0.5}})
    for n in range(int(sys.argv[3]))
]
print(json.dumps({"taken": taken.count(True)}))
"""
)
# What another user tries. Prints what works.
ATTACK = (
    BECOME
    + """
root, folder, segment = map(Path, sys.argv[2:5])
become(int(sys.argv[1]), int(sys.argv[1]), 0)
worked = []
for name, attempt in {
    "list the folder": lambda: os.listdir(folder),
    "enter the folder": lambda: os.stat(folder / "node_0"),
    "read a segment": lambda: segment.read_bytes(),
    "delete a segment": lambda: segment.unlink(),
    "delete the folder": lambda: folder.rmdir(),
    "rename the folder": lambda: folder.rename(root / "mine"),
    "change the folder": lambda: folder.chmod(0o777),
    "rename the root": lambda: root.rename(root.parent / "other"),
    "open the root": lambda: root.chmod(0o2777),
}.items():
    try:
        attempt()
    except PermissionError:
        continue
    worked.append(name)
print(json.dumps(worked))
"""
)
# One delivery as root loads all there is to load; the second one is the service's own.
SHIP = (
    BECOME
    + """
from shipper.config.load import load
from shipper.service import ship_once
def ship(spool, state):
    given = {"spool": spool, "state": state, "processor_url": sys.argv[3], "save_local": "false"}
    return ship_once(load(given, {}), timeout=60)
assert ship(sys.argv[4], sys.argv[5]) == []
become(int(sys.argv[1]), int(sys.argv[2]), 0o077)
print(json.dumps(ship(sys.argv[6], sys.argv[7])))
"""
)

COLLECTORS = (
    BECOME
    + """
from spooler.filetail.checkpoint import state_folder
become(int(sys.argv[1]), int(sys.argv[1]), 0)
state_folder(Path(os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"]))
"""
)
LOOK = (
    BECOME
    + """
from shipper.discovery.layout import find_spools
become(int(sys.argv[1]), int(sys.argv[2]), 0)
closed = []
found = list(find_spools(Path(sys.argv[3]), lambda path, error: closed.append(str(path))))
print(json.dumps([len(found), closed]))
"""
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be several users")


def by_systemd(top: Path) -> None:
    if shutil.which("systemd-tmpfiles") is None:
        pytest.skip("needs systemd-tmpfiles, of Debian's package systemd")
    # `--root` and the one file: without both it would tidy up this very machine.
    made = subprocess.run(
        ["systemd-tmpfiles", f"--root={top}", "--create", str(TMPFILES)],
        capture_output=True,
        text=True,
        timeout=spools.PATIENCE_SECONDS,
        check=False,
    )
    assert made.returncode == 0, made.stderr


def by_command(top: Path) -> None:
    ran = lens_ship("init-root", str(top / ROOT), "--owner", f"{SERVICE}:{GROUP}")
    assert (ran.code, ran.out) == (0, f"{top / ROOT}: mode 3777, owner {SERVICE}:{GROUP}\n")


MAKERS = {"systemd-tmpfiles": by_systemd, "lens-ship init-root": by_command}


@pytest.fixture(params=MAKERS)
def machine(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder where the installed files have been put to work, as at the start of a machine."""
    top = Path(tempfile.mkdtemp(prefix="lens-ship-machine-"))
    try:
        top.chmod(0o755)
        for folder in ("etc", "var/spool", "var/lib"):
            (top / folder).mkdir(parents=True)
        (top / "etc" / "passwd").write_text(f"lens-ship:x:{SERVICE}:{GROUP}::/:/bin/false\n")
        (top / "etc" / "group").write_text(f"lens-ship:x:{GROUP}:\n")
        state = top / "var" / "lib" / "lens-ship"
        state.mkdir(mode=0o700)
        os.chown(state, SERVICE, GROUP)
        MAKERS[request.param](top)
        yield top
    finally:
        shutil.rmtree(top)


@pytest.fixture
def root(machine: Path) -> Path:
    return machine / ROOT


def record(root: Path, uid: int, count: int, *, umask: str = "022", **environ: str) -> int:
    """Records of a user's process that were taken."""
    done = spools.python(
        RECORD,
        uid,
        umask,
        count,
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
        WORKLOAD_UID=f"w{uid}",
        **environ,
    )
    taken: int = spools.answer(done)["taken"]
    return taken


def spools_of(root: Path, uid: int) -> list[Path]:
    return spools.spools_below(root / f"uid_{uid}")


def ship(machine: Path, root: Path, tmp_path: Path) -> None:
    """Deliver everything as the service's user, which leaves nothing pending and nothing behind."""
    spools.fill(tmp_path / "other", 3)
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        done = spools.python(
            SHIP,
            *(SERVICE, GROUP, receiver.url),
            *(tmp_path / "other", tmp_path / "other-state"),
            *(root, machine / "var" / "lib" / "lens-ship"),
        )
        assert spools.answer(done) == [], done.stderr
        for uid in (ALICE, BOB):
            assert sorted(arrived(receiver.store, f"w{uid}").steps) == list(range(20))


@pytest.mark.parametrize("umask", ["022", "077", "000"])
def test_the_spools_of_every_user_are_delivered_and_deleted(
    umask: str, machine: Path, root: Path, tmp_path: Path
) -> None:
    assert record(root, ALICE, 20, umask=umask) == 20
    assert record(root, BOB, 20, umask=umask) == 20
    ship(machine, root, tmp_path)
    assert spools_of(root, ALICE) == spools_of(root, BOB) == []


def test_other_users_cannot_touch_a_spool(root: Path) -> None:
    assert record(root, ALICE, 3, umask="000") == 3
    (spool,) = spools_of(root, ALICE)
    segment = spool / "00000001.sqlite"
    before = segment.read_bytes()
    done = spools.python(ATTACK, BOB, root, root / f"uid_{ALICE}", segment)
    assert spools.answer(done) == []
    assert segment.read_bytes() == before


def test_another_user_cannot_stop_recording_with_a_file_called_full(
    root: Path,
) -> None:
    marker = root / "full"
    marker.touch()
    os.chown(marker, BOB, BOB)
    assert record(root, ALICE, 3) == 3
    os.chown(marker, SERVICE, GROUP)
    assert record_after_a_look(root, ALICE) == "root-cap"


def record_after_a_look(root: Path, uid: int) -> str:
    """Why a user's process would refuse records now; "" when it takes them."""
    code = BECOME.replace("import json", "import json, time") + (
        "become(int(sys.argv[1]), int(sys.argv[1]), 0)\n"
        "recorder().record('step', {'run': 'r'})\n"
        "recorder()._writer.maintain()\n"
        "print(json.dumps(recorder()._writer._refusal))\n"
    )
    reason: str = spools.answer(spools.python(code, uid, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root)))
    return reason


@pytest.mark.parametrize("mode", [0o3777, 0o3773])
def test_records_are_synced_in_the_root_of_another_user(mode: int, root: Path) -> None:
    root.chmod(mode)
    assert record_after_a_look(root, ALICE) == ""


def test_a_directory_that_another_user_created_is_not_used(root: Path) -> None:
    squatted = root / f"uid_{ALICE}"
    squatted.mkdir()
    os.chown(squatted, BOB, GROUP)
    squatted.chmod(0o2777)
    assert record(root, ALICE, 3) == 0
    assert list(squatted.iterdir()) == []


def test_a_directory_that_another_user_created_is_named_and_the_advice_helps(
    machine: Path, root: Path, tmp_path: Path
) -> None:
    squatted = root / f"uid_{ALICE}"
    squatted.mkdir(mode=0o700)
    os.chown(squatted, BOB, GROUP)
    assert record(root, ALICE, 3) == 0
    environ = {"LENS_SHIP_SPOOL": str(root), "LENS_SHIP_STATE": str(tmp_path / "state")}
    why = f"belongs to user {BOB}, so that user {ALICE} cannot record"
    status = lens_ship("status", **environ)
    assert status.code == 1
    assert why in status.out
    found = lens_ship("check", "--json", **environ)
    findings = [one for one in json.loads(found.out)["findings"] if why in one["text"]]
    assert len(findings) == 1, "it is not unreadable as well"
    step = findings[0]["next"]
    assert "chmod" not in step
    assert "chgrp" not in step
    command = step.removeprefix("as root: ").partition(";")[0]
    subprocess.run(command, shell=True, check=True)
    assert record(root, ALICE, 3) == 3
    assert lens_ship("status", **environ).out.count("belongs to user") == 0


def test_the_state_of_collectors_is_no_directory_that_cannot_be_read(
    machine: Path, root: Path, tmp_path: Path
) -> None:
    """Each user's is closed to all others, the service included."""
    made = spools.python(COLLECTORS, str(ALICE), PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root))
    assert made.returncode == 0, made.stderr
    assert (root / f"collectors_{ALICE}").stat().st_mode & 0o777 == 0o700
    assert record(root, ALICE, 3) == 3
    looked = spools.python(LOOK, str(SERVICE), str(GROUP), str(root))
    assert spools.answer(looked) == [1, []]


def test_the_directory_of_a_pod_gives_its_spools_to_the_service(
    machine: Path, root: Path, tmp_path: Path
) -> None:
    """As the kubelet makes it: the root's permissions and group, root's own, not sticky."""
    for uid in (ALICE, BOB):
        folder = root / f"aaaaaaaa-bbbb-cccc-dddd-{uid:012d}"
        folder.mkdir()
        folder.chmod(0o2777)
        assert record(folder, uid, 20) == 20
        (spool,) = spools.spools_below(folder)
        assert spool.stat().st_mode & 0o7777 == 0o2770
    ship(machine, root, tmp_path)
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, of util-linux")
def test_the_capabilities_of_the_init_container_are_enough_each_time(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    root.mkdir()
    state.mkdir()
    limits = "-all,+chown,+fowner,+fsetid"
    command = [
        *("setpriv", "--regid", str(GROUP), "--clear-groups", "--no-new-privs"),
        *("--bounding-set", limits, "--inh-caps", "-all"),
        *(sys.executable, "-c", "from shipper.cli import main; main()"),
        *("init-root", str(root), "--state", str(state), "--owner", f"{SERVICE}:{GROUP}"),
    ]
    for said in ("mode 3777", "nothing to change"):
        done = subprocess.run(
            command,
            env=spools.environment(),
            cwd=spools.REPOSITORY,
            capture_output=True,
            text=True,
            timeout=spools.PATIENCE_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert (root.stat().st_uid, root.stat().st_gid) == (SERVICE, GROUP)
        assert (root.stat().st_mode & 0o7777, state.stat().st_mode & 0o7777) == (0o3777, 0o700)
        assert os.getxattr(root, "system.posix_acl_default")


def test_a_pod_that_was_earlier_than_the_service_records_as_soon_as_it_is_there(
    machine: Path,
) -> None:
    """The kubelet has made both directories, as root, mode 0755."""
    root = machine / "early"
    folder = root / f"aaaaaaaa-bbbb-cccc-dddd-{ALICE:012d}"
    folder.mkdir(parents=True)
    theirs = root / "of-an-operator"
    theirs.mkdir()
    assert record(folder, ALICE, 20) == 0
    for _ in range(2):
        ran = lens_ship("init-root", str(root), "--owner", f"{SERVICE}:{GROUP}")
        assert ran.code == 0, ran.err
    assert record(folder, ALICE, 20) == 20
    (spool,) = spools.spools_below(folder)
    assert (spool.stat().st_gid, spool.stat().st_mode & 0o7777) == (GROUP, 0o2770)
    assert theirs.stat().st_gid == 0


def test_the_state_goes_to_another_user_with_all_its_files(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    places = ("init-root", str(root), "--state", str(state))
    assert lens_ship(*places, "--owner", f"{SERVICE}:{GROUP}").code == 0
    (state / "ledger.sqlite").touch(mode=0o600)
    os.chown(state / "ledger.sqlite", SERVICE, GROUP)
    (tmp_path / "elsewhere").touch()
    (state / "link").symlink_to(tmp_path / "elsewhere")
    assert lens_ship(*places, "--owner", f"{SERVICE + 1}:{GROUP}").code == 0
    found = [path.lstat().st_uid for path in (root, state, *state.iterdir())]
    assert found == [SERVICE + 1] * 4
    assert (tmp_path / "elsewhere").stat().st_uid == os.geteuid()
    assert state.stat().st_mode & 0o7777 == 0o700


def test_a_second_init_root_changes_nothing_and_a_link_is_rejected(
    machine: Path, root: Path
) -> None:
    before = root.stat()
    ran = lens_ship("init-root", str(root), "--owner", f"{SERVICE}:{GROUP}")
    assert (ran.code, ran.out) == (0, f"{root}: nothing to change\n")
    assert root.stat().st_mode == before.st_mode
    link = machine / "link"
    link.symlink_to(machine / "etc")
    ran = lens_ship("init-root", str(link), "--owner", "1:1")
    assert ran.code == 1
    assert "lens-ship: " in ran.err
    assert (machine / "etc").stat().st_uid == 0
    assert lens_ship("init-root", str(root), "--owner", "lens-ship").code == 2


def test_a_root_of_one_user_stays_closed_to_others(tmp_path: Path) -> None:
    own = tmp_path / "own"
    assert record_as_root(own) == 3
    (spool,) = spools.spools_below(own)
    assert {path.stat().st_mode & 0o7077 for path in (own, spool, *spool.iterdir())} == {0}


def record_as_root(root: Path) -> int:
    return record(root, 0, 3)
