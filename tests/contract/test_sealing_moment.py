"""The moment at which a segment is sealed: a reader beside it, and a death in the middle of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.steady import steps_below, training

SMALL = {"PRIMUS_LENS_SPOOL_SEGMENT_RECORDS": "8"}
STEPS = 20_000
DEATHS = 80

# Each child is a training process of its own, killed after so many seconds; it notes what is taken.
DIE = """
import json, os, signal, sys, time
from pathlib import Path
from spooler.recorder import recorder
recorder()
root, folder = Path(os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"]), Path(sys.argv[1])
children = []
for seconds in map(float, sys.argv[2:]):
    child = os.fork()
    if child == 0:
        answers, step = os.open(folder / str(os.getpid()), os.O_WRONLY | os.O_CREAT), 0
        while True:
            body = {"run": "r", "step": step, "time": 1.0, "closed": True, "data": {"loss": 1.0}}
            if recorder().record("step", body):
                os.write(answers, b"%d\\n" % step)
            step += 1
    while not (folder / str(child)).exists():
        pass
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    children.append(child)
print(json.dumps(children))
"""


@pytest.mark.promise("G1")
@pytest.mark.promise("G3")
@pytest.mark.promise("G7")
def test_a_reader_beside_a_writer_that_seals_sees_each_record_once_and_no_damage(
    tmp_path: Path,
) -> None:
    bursts = {"rest": 0.0, "every": 20, "job": "import time; time.sleep(0.001)"}
    with training(tmp_path / "spool", tmp_path / "answers", **bursts, **SMALL) as job:
        follower, position = Reader(job.spool()), 0
        while position < STEPS:
            assert job.tried()
            # What is new, and what was just sealed or is being so.
            for reader, back in ((follower, 0), (Reader(job.spool()), 16)):
                after = max(0, position - back)
                chunk = reader.read(after, 5000)
                assert chunk.damage == ()
                seqs = [stored.seq for stored in chunk.records]
                assert seqs == list(range(after + 1, after + 1 + len(seqs)))
                assert chunk.through == after + len(seqs)
                position = max(position, chunk.through)
        assert job.end() == {}
        assert steps_below(tmp_path / "spool") == job.taken()


@pytest.mark.promise("G1")
@pytest.mark.promise("G7")
def test_a_writer_killed_in_the_middle_of_sealing_leaves_all_that_was_taken(tmp_path: Path) -> None:
    delays = [random.Random(seed).uniform(0, 0.02) for seed in range(DEATHS)]
    folder = tmp_path / "answers"
    folder.mkdir()
    done = spools.python(
        DIE, folder, *delays, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path / "spool"), **SMALL
    )
    children = spools.answer(done)
    found = {int(path.name.split("-")[1]): path for path in spools.spools_below(tmp_path / "spool")}
    for child in children:
        taken = [int(step) for step in (folder / str(child)).read_text().split()]
        spool = found.pop(child, folder)  # one killed before it had a spool has recorded nothing
        steps = [body["step"] for body in spools.read_whole(spool).bodies("step")]
        # The last one may be committed and not yet noted.
        assert steps in (taken, [*taken, len(taken)])
    assert found == {}
