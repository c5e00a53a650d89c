"""Threads, signal handlers and other processes around one writer: each record once, none lost."""

from __future__ import annotations

import inspect
import signal
import threading
from pathlib import Path
from types import FrameType

import pytest

from spooler.spool import writer as writer_module
from tests.kit import spools


@pytest.mark.promise("G3")
def test_threads_get_distinct_numbers_and_keep_their_own_order(tmp_path: Path) -> None:
    threads, each = 8, 500
    one = spools.writer(tmp_path, segment_records=300)
    seqs: list[list[int]] = [[] for _ in range(threads)]
    done = threading.Event()

    def append(index: int) -> None:
        for number in range(each):
            seqs[index].append(one.append(f"kind-{index}", spools.body(number)))

    def maintain() -> None:
        while not done.is_set():
            one.maintain()

    workers = [threading.Thread(target=append, args=(i,)) for i in range(threads)]
    tending = threading.Thread(target=maintain)
    for thread in (tending, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    done.set()
    tending.join()
    one.close()

    found = spools.read_whole(one.directory)
    assert sorted(seq for own in seqs for seq in own) == list(range(1, threads * each + 1))
    for index, own in enumerate(seqs):
        mine = [stored for stored in found.records if stored.kind == f"kind-{index}"]
        assert [stored.seq for stored in mine] == own == sorted(own)
        assert [spools.number_of(stored) for stored in mine] == list(range(each))


@pytest.mark.promise("G2")
def test_a_signal_handler_may_append_while_its_own_thread_does(tmp_path: Path) -> None:
    one = spools.writer(tmp_path, segment_records=50)
    handled: list[int] = []
    enough = threading.Event()

    def handler(_signal: int, _frame: FrameType | None) -> None:
        handled.append(one.append("signal", spools.body(len(handled))))
        if not enough.is_set():  # one at a time, however slow this machine is
            signal.setitimer(signal.ITIMER_REAL, 0.0002)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002)
    own = []
    try:
        while len(handled) < 1000 or len(own) < 3000:
            own.append(one.append("step", spools.body(len(own))))
            if len(own) % 20 == 0:
                one.maintain()
    finally:
        enough.set()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    one.close()

    found = spools.read_whole(one.directory)
    by_kind = {
        kind: [stored for stored in found.records if stored.kind == kind]
        for kind in ("step", "signal")
    }
    assert [stored.seq for stored in by_kind["step"]] == own
    assert sorted(stored.seq for stored in by_kind["signal"]) == sorted(handled)
    assert len(found.records) == len(own) + len(handled)


@pytest.mark.promise("G2")
@pytest.mark.promise("G3")
@pytest.mark.parametrize(("filled", "times"), [(3, 1), (3, 2), (2, 3)])
def test_an_append_may_be_interrupted_by_appends_at_any_bytecode(
    filled: int, times: int, tmp_path: Path
) -> None:
    """The append under test fills its segment, so rotation is interrupted as well.

    Once, a handler in the wrong place made one number go to two records, or a record come to lie
    in a segment that had been left.
    """
    at, seen = 0, 1
    while at < seen:
        one = spools.writer(tmp_path, spool=spools.spool_id(at), segment_records=4)
        expected = [one.append("before", spools.body(n)) for n in range(filled)]
        one.maintain()

        def nested(one: writer_module.Writer = one, expected: list[int] = expected) -> None:
            expected += [one.append("signal", spools.body(n)) for n in range(times)]

        def append(one: writer_module.Writer = one, expected: list[int] = expected) -> None:
            expected.append(one.append("step", spools.body(0)))

        seen = spools.interrupt(inspect.getfile(writer_module), append, at, nested)
        expected += [one.append("after", spools.body(n)) for n in range(2)]
        one.maintain()
        expected += [one.append("after", spools.body(n)) for n in range(2)]
        one.close()
        found = spools.read_whole(one.directory)
        assert sorted(expected) == found.seqs, f"interrupted before bytecode {at}"
        at += 1
    assert seen > 50


@pytest.mark.promise("G2")
def test_an_append_that_is_given_up_leaves_the_writer_usable(tmp_path: Path) -> None:
    """Ctrl-C: KeyboardInterrupt comes out of a signal handler at any bytecode."""
    at, seen = 0, 1
    while at < seen:
        one = spools.writer(tmp_path, spool=spools.spool_id(at), segment_records=4)
        for number in range(3):
            one.append("before", spools.body(number))
        one.maintain()

        def give_up() -> None:
            raise KeyboardInterrupt

        def append(one: writer_module.Writer = one) -> None:
            one.append("step", spools.body(0))

        try:
            seen = spools.interrupt(inspect.getfile(writer_module), append, at, give_up)
        except KeyboardInterrupt:
            seen = at + 2
        after = [one.append("after", spools.body(number)) for number in range(6)]
        one.maintain()
        last = one.append("after", spools.body(6))
        one.close()
        found = spools.read_whole(one.directory)
        kept = [stored.seq for stored in found.records if stored.kind == "after"]
        assert kept == [*after, last], f"given up before bytecode {at}"
        at += 1
    assert at > 50


def test_the_lock_on_owner_ends_with_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, os, pathlib; from tests.kit import spools\n"
        "one = spools.writer(pathlib.Path(sys.argv[1]))\n"
        "one.append('step', spools.body(1))\n"
        "import json; owned = spools.Reader(one.directory).is_owned()\n"
        "print(json.dumps([str(one.directory), owned]))\n"
        "sys.stdout.flush(); os.kill(os.getpid(), 9)"
    )
    done = spools.python(code, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    directory, owned = spools.json.loads(done.stdout)
    assert owned
    assert not spools.Reader(Path(directory)).is_owned()
    assert spools.read_whole(Path(directory)).numbers == [1]


def test_a_forked_child_that_ends_leaves_the_lock_with_the_parent(tmp_path: Path) -> None:
    code = (
        "import sys, os, json, pathlib; from tests.kit import spools\n"
        "one = spools.writer(pathlib.Path(sys.argv[1]))\n"
        "child = os.fork()\n"
        "if child == 0: sys.exit(0)\n"
        "os.waitpid(child, 0)\n"
        "one.append('step', spools.body(1))\n"
        "owned = spools.Reader(one.directory).is_owned()\n"
        "one.close()\n"
        "print(json.dumps([owned, spools.read_whole(one.directory).numbers]))"
    )
    assert spools.answer(spools.python(code, tmp_path)) == [True, [1]]
