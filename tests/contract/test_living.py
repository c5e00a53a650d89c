"""Who lives, who has ended and who was killed, of processes that do what training programs do."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest

from shipper.ledger.ledger import Ledger
from shipper.retention.policy import DeletableSegment
from shipper.service import Service, ship_once
from shipper.steps import CUT_OFF_NAME
from spooler.spool.owner import Liveness, Lock, ProcessState
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.puppet import Puppet, close_all
from tests.kit.shipping import ALIVE, KILLED, append, config, spool, step
from tests.kit.spools import wait_until

ENDED = Liveness(alive=False, certain=True, unclean=False)
NO_LOCKS = """
def refuse(descriptor, command, argument=0):
    if command in (fcntl.F_OFD_SETLK, fcntl.F_SETLK):
        raise OSError(37, "No locks available")
    return real(descriptor, command, argument)
real, fcntl.fcntl = fcntl.fcntl, refuse
"""
COPIES = {
    "copytree": "shutil.copytree(recorder().directory, recorder().directory + '-copy')",
    "tarfile": "tarfile.open(recorder().directory + '.tar', 'w').add(recorder().directory)",
    "read": "open(recorder().directory + '/owner').close()",
}
PATIENT = f"""
import spooler.recorder
spooler.recorder._SHUTDOWN_SECONDS = {spools.PATIENCE_SECONDS}  # also on a slow machine
"""
FORKED = f"""{PATIENT}
import os, sys, wandb
from spooler.hooks.wandb import wrap
wrap(wandb)
run = wandb.init(mode="offline", dir=sys.argv[1], settings=wandb.Settings(console="off"))
run.log({{"loss": 0.5}}, step=0)
if os.fork() == 0:
    run.log({{"loss": 1.5}}, step=1)
    os._exit(0)
os.wait()
run.log({{"loss": 2.5}}, step=2)
run.finish()
"""


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        yield receiver


@contextmanager
def serving(tmp_path: Path, receiver: FaultyReceiver) -> Iterator[Service]:
    service = Service(config(tmp_path, processor_url=receiver.url, flush_interval=0.2))
    running = threading.Thread(target=service.run)
    running.start()
    try:
        yield service
    finally:
        service.stop()
        running.join()


def steps(receiver: FaultyReceiver, workload: str = "w") -> dict[int, dict[str, float]]:
    return arrived(receiver.store, workload).steps


def is_marked(receiver: FaultyReceiver, workload: str = "w") -> bool:
    return any(CUT_OFF_NAME in row for row in steps(receiver, workload).values())


@pytest.mark.promise("G16")
@pytest.mark.parametrize("how", COPIES)
def test_a_program_that_copies_its_own_output_is_delivered_to_its_end(
    tmp_path: Path, receiver: FaultyReceiver, how: str
) -> None:
    puppet = Puppet(tmp_path / "spool")
    with serving(tmp_path, receiver):
        wait_until(lambda: 0 in steps(receiver))
        for number in range(1, 4):
            puppet.do(COPIES[how].replace("-copy", f"-{number}").replace(".tar", f"{number}.tar"))
            assert Reader(puppet.directory).liveness_evidence().lock is Lock.HELD
            puppet.do(f"log({number})")
            wait_until(lambda number=number: number in steps(receiver))
        puppet.end()
        wait_until(lambda: not Reader(puppet.directory).is_owned())
    assert sorted(steps(receiver)) == [0, 1, 2, 3]
    assert not is_marked(receiver)


def test_an_owner_file_that_a_cleaner_takes_is_made_again(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    (puppet.directory / "owner").unlink()
    assert Reader(puppet.directory).is_owned()
    wait_until(lambda: Reader(puppet.directory).liveness_evidence().lock is Lock.HELD)
    puppet.kill()
    assert Reader(puppet.directory).liveness() == KILLED


def test_a_descriptor_that_the_program_closes_is_opened_again(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    numbers = []
    for path in Path(f"/proc/{puppet.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # of another file, which is closed by now
            if os.readlink(path).endswith("/owner"):
                numbers.append(int(path.name))
    (number,) = numbers
    # With a record: how long it is believed to live without its lock counts from the last.
    puppet.do(f"os.closerange({number}, {number + 1}); log(1)")
    assert Reader(puppet.directory).is_owned()
    wait_until(lambda: Reader(puppet.directory).liveness_evidence().lock is Lock.HELD)
    puppet.do("log(2)")
    puppet.end()
    assert Reader(puppet.directory).liveness() == ENDED


@pytest.mark.promise("G16")
def test_a_program_that_replaces_its_image_has_ended_and_was_never_cut_off(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    puppet = Puppet(tmp_path / "spool")
    with serving(tmp_path, receiver):
        wait_until(lambda: 0 in steps(receiver))
        puppet.say("os.execv('/bin/sleep', ['sleep', '1000'])")
        wait_until(lambda: not Reader(puppet.directory).is_owned())
        assert Reader(puppet.directory).liveness_evidence().process is ProcessState.RUNNING
        ledger = Ledger(tmp_path / "state", exclusive=False)
        wait_until(lambda: ledger.is_unclean_exit_reported(puppet.directory.name, "processor"))
        ledger.close()
        puppet.kill()
        # By the time that another's death is reported, this one's would be.
        other = Puppet(tmp_path / "spool", workload="other")
        wait_until(lambda: 0 in steps(receiver, "other"))
        other.kill()
        wait_until(lambda: is_marked(receiver, "other"))
    assert ship_once(config(tmp_path, processor_url=receiver.url), timeout=60) == []
    assert not is_marked(receiver)


@pytest.mark.promise("G16")
def test_a_run_is_not_over_with_a_forked_child_that_logged_to_it(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    done = spools.python(
        FORKED,
        tmp_path,
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path / "spool"),
        WORKLOAD_UID="w",
        WANDB_SILENT="true",
    )
    assert done.returncode == 0, done.stderr
    verdicts = [Reader(path).liveness() for path in spools.spools_below(tmp_path / "spool")]
    assert KILLED in verdicts, "the child has ended without its recorder's knowledge"
    assert ship_once(config(tmp_path, processor_url=receiver.url), timeout=60) == []
    assert sorted(steps(receiver)) == [0, 1, 2]
    assert not is_marked(receiver)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_child_of_multiprocessing_ends_its_spool(tmp_path: Path, method: str) -> None:
    script = tmp_path / "training.py"
    script.write_text(
        f"""{PATIENT}
import multiprocessing, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from spooler.recorder import recorder
from tests.kit import spools

def work():
    assert recorder().record("step", spools.step(1))

if __name__ == "__main__":
    child = multiprocessing.get_context({method!r}).Process(target=work)
    child.start()
    child.join()
"""
    )
    done = spools.python(
        "import os, sys; os.execv(sys.executable, [sys.executable, sys.argv[1]])",
        script,
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path / "spool"),
        PYTHONPATH=str(spools.REPOSITORY),
    )
    assert done.returncode == 0, done.stderr
    (directory,) = spools.spools_below(tmp_path / "spool")
    assert spools.kinds(directory) == ["step", "exit"]
    assert Reader(directory).liveness() == ENDED


def test_a_process_that_is_killed_is_known_at_once(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path)
    reader = Reader(puppet.directory)
    assert reader.liveness() == ALIVE
    puppet.kill()
    assert reader.liveness() == KILLED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace")
def test_a_process_in_a_container_is_told_by_its_lock_alone(tmp_path: Path) -> None:
    puppet = Puppet(tmp_path, before=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    reader = Reader(puppet.directory)
    assert reader.liveness_evidence().process is ProcessState.UNSEEN
    assert reader.liveness() == ALIVE
    puppet.kill()
    wait_until(lambda: reader.liveness() == KILLED)


def test_where_the_file_system_does_not_lock_recording_goes_on(tmp_path: Path) -> None:
    killed, ended = Puppet(tmp_path, first=NO_LOCKS), Puppet(tmp_path, first=NO_LOCKS)
    for puppet in (killed, ended):
        puppet.do("log(1)")
        assert Reader(puppet.directory).liveness_evidence().lock is Lock.UNKNOWN
        assert Reader(puppet.directory).liveness() == ALIVE
    killed.kill()
    ended.end()
    assert Reader(killed.directory).liveness() == KILLED
    assert Reader(ended.directory).liveness() == ENDED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a namespace")
def test_new_data_refutes_a_death_that_was_reported(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    """A lock that is lost and not taken again, of a process that cannot be seen."""
    unseen = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    puppet = Puppet(tmp_path / "spool", before=unseen)
    with serving(tmp_path, receiver):
        wait_until(lambda: 0 in steps(receiver))
        puppet.do("from spooler.spool import owner; owner.Owner.check = lambda self: None")
        puppet.do("[os.close(one.number) for one in list(owner._taken)]")
        wait_until(lambda: is_marked(receiver))
        for number in (1, 2):
            puppet.do(f"log({number})")
            wait_until(lambda number=number: number in steps(receiver))
        puppet.kill()
    assert sorted(steps(receiver)) == [0, 1, 2]


def test_a_folder_is_not_deleted_when_it_has_grown_since_it_was_found(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    """Asked again at the last moment: the verdict may be minutes old."""
    directory, writer = spool(tmp_path / "spool", [step(0)], close=False)
    service = Service(config(tmp_path, processor_url=receiver.url), once=True)
    kept = DeletableSegment(spool=directory.name, number=None, bytes=1, age=0.0, save=True)
    with mock.patch.object(Reader, "liveness", return_value=KILLED):
        service.run()
        append(writer, [step(1)])
        service.app.cleaner._delete(kept)
    with mock.patch.object(Reader, "liveness", return_value=ALIVE):
        service.app.cleaner._delete(kept)
    assert [stored.seq for stored in spools.read_whole(directory).records] == [1, 2]
    writer.close()
