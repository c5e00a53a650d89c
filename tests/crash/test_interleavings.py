"""A reader beside a writer, whatever comes between which two of their system calls.

A real writer is traced while it appends, rotates, seals and closes. Its calls are then made again
one by one, on copies, and a reader is let loose before each of them; during its reading, at each of
its own calls, the writer goes on by some of its calls. What was acknowledged before the reader
began has to be read, in order and undamaged; and everything once the writer has ended.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from spooler.errors import SpoolDamaged, SpoolUnavailable
from spooler.spool import codec, db
from spooler.spool import format as fmt
from spooler.spool.reader import Reader
from spooler.spool.segment import Segment
from spooler.spool.stored import Stored
from tests.crash.lab.tracing import CallFault, missing, run
from tests.kit import spools
from tests.kit.shipping import OwnedReader

pytestmark = [
    pytest.mark.promise("G1"),
    pytest.mark.skipif(bool(missing()), reason=missing() or "strace traces"),
]

COUNT = 7
WRITER = f"""
import os, pathlib, sys
from spooler.spool import db
from tests.kit import spools
db.LARGE_BYTES = 1000  # the last segment is smaller
one = spools.writer(pathlib.Path(sys.argv[1]), spool=sys.argv[2], segment_records=3)
removed = [int(number) for number in sys.argv[3:]]
for number in range(1, {COUNT + 1}):
    one.append("step", spools.codec.pack({{"n": number, "text": "x" * (700 * (number % 3))}}))
    os.write(1, b"acknowledged\\n")
    if number in removed:
        os.unlink(f"{{one._segment.path}}-wal")
    if number % 3 != 1:
        one.maintain()
one.close()
os.write(1, b"ended\\n")
"""
CALLS = "openat,pwrite64,write,ftruncate,unlink,unlinkat,rename,mkdir,close,fsync,fdatasync"
_CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
# What a reader asks the system with.
ASKED = ("open", "close", "pread", "fstat", "stat", "lstat", "listdir")


@dataclass(frozen=True)
class TracedCall:
    """One call of the writer that changes a file, or an acknowledgement (no `path`)."""

    what: str
    path: str = ""
    data: bytes = b""
    number: int = 0

    def make(self, root: Path) -> None:
        """Make it again, below another root."""
        path = root / self.path
        if self.what == "mkdir":
            path.mkdir()
        elif self.what == "create":
            path.touch()
        elif self.what == "write":
            with path.open("r+b") as file:
                file.seek(self.number)
                file.write(self.data)
        elif self.what == "truncate":
            os.truncate(path, self.number)
        elif self.what == "unlink":
            path.unlink()
        elif self.what == "rename":
            path.rename(root / self.data.decode())


def _texts(arguments: str) -> list[bytes]:
    found = _TEXT.findall(arguments)
    assert not any(cut for _, cut in found), "strace has cut a text"
    return [bytes.fromhex(text.replace("\\x", "")) for text, _ in found]


class Trace:
    """What a traced process changed below `root`."""

    def __init__(self, root: Path) -> None:
        self._top = f"{root}/"
        self._opened: dict[int, str] = {}
        self._ends: dict[str, int] = {}

    def calls(self, trace: Path) -> Iterator[TracedCall]:
        """In order."""
        for line in trace.read_text().splitlines():
            match = _CALL.match(line)
            if match is None or int(match[3]) < 0:
                continue
            name, arguments, result = match[1], match[2], int(match[3])
            if name == "openat":
                call = self._open(arguments, result)
            elif name in ("mkdir", "unlink", "unlinkat", "rename"):
                call = self._name(name, arguments)
            else:
                call = self._use(name, arguments)
            if call is not None:
                yield call

    def _below(self, raw: bytes) -> str:
        text = os.fsdecode(raw)
        return text.removeprefix(self._top) if text.startswith(self._top) else ""

    def _open(self, arguments: str, descriptor: int) -> TracedCall | None:
        path = self._below(_texts(arguments)[0])
        self._opened[descriptor] = path
        self._ends[path] = 0
        return TracedCall("create", path) if path and "O_CREAT" in arguments else None

    def _name(self, name: str, arguments: str) -> TracedCall | None:
        paths = [self._below(text) for text in _texts(arguments)]
        if not paths[0]:
            return None
        if name.startswith("unlink"):  # what is written to it from here on, nothing finds
            opened = self._opened.items()
            self._opened = {number: "" if path == paths[0] else path for number, path in opened}
        return TracedCall(name.removesuffix("at"), paths[0], data="".join(paths[1:]).encode())

    def _use(self, name: str, arguments: str) -> TracedCall | None:
        descriptor, last = (arguments.split(",")[0], arguments.rsplit(",", 1)[-1])
        path = self._opened.get(int(descriptor), "")
        if name == "write" and descriptor == "1":
            return TracedCall(_texts(arguments)[0].decode().strip())
        if name == "close":
            self._opened.pop(int(descriptor), None)
        if not path or name in ("close", "fsync", "fdatasync"):
            return None
        if name == "ftruncate":
            return TracedCall("truncate", path, number=int(last))
        data = _texts(arguments)[0]
        if name == "pwrite64":
            return TracedCall("write", path, data, int(last))
        self._ends[path] += len(data)
        return TracedCall("write", path, data, self._ends[path] - len(data))


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: it is copied some thousand times."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="lens-ship-", dir=memory) as place:
        yield Path(place)


Life = tuple[list[TracedCall], str, list[Stored]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Life:
    """The calls of a whole life, the spool's place below the root, and what it holds at the end."""
    return traced(tmp_path_factory.mktemp("traced"))


def traced(directory: Path, *removed: int) -> Life:
    """A life in which a cleaner removes the log after each of these records."""
    root, trace = directory / "root", directory / "trace"
    root.mkdir()
    subprocess.run(
        [
            *("strace", "-qq", "-xx", "-s", "100000", "-o", str(trace), "-e", f"trace={CALLS}"),
            *(sys.executable, "-c", WRITER, str(root), spools.spool_id(), *map(str, removed)),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=spools.REPOSITORY,
    )
    calls = list(Trace(root).calls(trace))
    assert [call.what for call in calls].count("acknowledged") == COUNT
    directory = root.joinpath(*spools.BELOW, spools.spool_id())
    whole = spools.read_whole(directory)
    assert len(whole.records) == COUNT
    copy = directory / "copy"
    copy.mkdir()
    for call in calls:
        call.make(copy)
    assert spools.read_whole(copy / directory.relative_to(root)).records == whole.records
    return calls, str(directory.relative_to(root)), list(whole.records)


def begin_of(calls: list[TracedCall], place: str) -> int:
    """The first moment at which there is a spool to be read."""
    return next(
        index + 1
        for index, call in enumerate(calls)
        if call.what == "rename" and call.data.decode().startswith(place)
    )


class During:
    """Lets the writer go on at the Nth question of a reader."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.at = 0
        self.go_on: Callable[[], None] = lambda: None
        for name in ASKED:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            self.asked += 1
            if self.asked == self.at:
                go_on, self.go_on = self.go_on, lambda: None
                go_on()
            return real(*args, **kwargs)

        return asked

    def watch(self, at: int, go_on: Callable[[], None]) -> None:
        """Call `go_on` at question `at` from now on."""
        self.asked, self.at, self.go_on = 0, at, go_on


def test_whatever_a_killed_writer_leaves_is_read_to_the_last_acknowledged_record(
    written: Life, tmp_path: Path
) -> None:
    calls, place, records = written
    acknowledged = 0
    root = tmp_path / "root"
    root.mkdir()
    for index, call in enumerate(calls):
        call.make(root)
        acknowledged += call.what == "acknowledged"
        if index + 1 < begin_of(calls, place):
            continue
        chunk = Reader(root / place).read(0, 100)
        assert chunk.damage == ()
        assert acknowledged <= len(chunk.records) <= acknowledged + 1, (index, call)
        assert list(chunk.records) == records[: len(chunk.records)]


def interleave(
    life: Life, directory: Path, during: During, *, knows: bool, steps: int
) -> Iterator[int]:
    """Read a spool from each moment of a life on, while `steps` calls of it come in between.

    They come before each question of the reader in turn. Yields how many of the records that were
    acknowledged when it began it had not found then; at the end it has found all, once.
    """
    calls, place, records = life
    base, root = directory / "base", directory / "root"
    base.mkdir()
    for index, call in enumerate(calls):
        call.make(base)
        if call.what == "write" and not call.path.endswith(".sqlite"):
            continue  # a frame inside a commit: a reader that begins there begins a moment earlier
        known = sum(call.what == "acknowledged" for call in calls[: index + 1])
        at, more = 1, index + 1 >= begin_of(calls, place)
        while more:
            shutil.copytree(base, root)
            ahead = iter(calls[index + 1 :])
            reader = OwnedReader(root / place)
            found = read(reader, 0) if knows else []
            during.watch(at, lambda ahead=ahead: make(ahead, root, steps))
            found += read(reader, len(found))
            more, at = during.asked >= at, at + 1
            during.watch(0, lambda: None)
            yield known - len(found)
            make(ahead, root)
            while len(found) < COUNT:
                news = read(reader, len(found))
                assert news, (index, at, len(found))
                found += news
            assert found == records
            shutil.rmtree(root)


def make(calls: Iterator[TracedCall], root: Path, count: int = 1000) -> None:
    """Make the next calls."""
    for _, call in zip(range(count), calls, strict=False):
        call.make(root)


def read(reader: Reader, after: int) -> list[Stored]:
    """What is to be had now; nothing while the reader is told to wait."""
    try:
        chunk = reader.read(after, 100)
    except SpoolDamaged as error:
        if error.lasting:
            raise
        return []
    assert chunk.damage == ()
    return list(chunk.records)


@pytest.mark.parametrize("knows", [False, True], ids=["a new reader", "one that has read before"])
@pytest.mark.parametrize("steps", [1, 1000])
def test_nothing_that_comes_during_a_read_costs_or_repeats_a_record(
    written: Life, knows: bool, steps: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = list(interleave(written, directory, During(monkeypatch), knows=knows, steps=steps))
    assert len(missing) > 200
    assert max(missing) <= 0


@pytest.mark.parametrize("steps", [1, 1000])
def test_a_log_that_a_cleaner_removes_costs_nothing_while_its_writer_lives(
    steps: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer notices it, and saves what was in the log: until then a reader waits."""
    (directory / "traced").mkdir()
    life = traced(directory / "traced", 1, 4)
    missing = list(interleave(life, directory, During(monkeypatch), knows=True, steps=steps))
    assert max(missing) > 0


def test_a_segment_is_only_there_if_all_of_it_is(tmp_path: Path) -> None:
    """Each write of its making is refused once: SQLite is silent about some."""
    name = fmt.segment_name(1)
    made = at = 0
    struck = True
    while struck:
        at += 1
        path = tmp_path / f"{at}" / name
        path.parent.mkdir()
        identity = codec.pack(spools.identity(spools.spool_id()).to_map())

        def make(path: Path = path, identity: bytes = identity) -> int:
            checksum = codec.checksum(fmt.IDENTITY_KIND, identity, 1)
            try:
                db.create(path, identity, checksum, mode=0o600)
            except SpoolUnavailable:
                return 1
            return 0

        fault = CallFault(call="pwrite64", error="EIO", at=at, forever=False)
        ended = run(make, fault, tmp_path / "trace", 60.0)
        struck = ended.struck
        if ended.status == 0:
            made += 1
            with Segment(path) as segment:
                segment.check()
                assert segment.identity(1).spool == spools.spool_id()
    assert made >= 1
    assert at > 5
