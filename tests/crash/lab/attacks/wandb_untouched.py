"""The same program with the hook and without, and what wandb made of it.

The seed makes a program: values of every kind (`tests.kit.zoo`), valid and invalid calls, and data
that the user changes right after the call or that another thread changes during it. It runs three
times, each time in a process of its own: without the hook, with it, and with it while the disk or
functions of lens-ship fail. The file and directory of wandb, the results and exceptions of every
call, and the user's values afterwards must be the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import sqlite3
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import spooler
from shipper.importers.wandb_datastore import CorruptEntry, LogOffset, entries
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child
from tests.crash.lab.conservation import recorded
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.spools import PATIENCE_SECONDS
from tests.kit.zoo import ERRORS, Zoo, condition, identities

CALLS = 60
ARMS = ("plain", "hooked", "troubled")
# One program in so many is hit by the disk, the others by functions of ours.
DISK = 3
FAILING = 0.1  # share of the calls of our functions that fail
_HEADER_BYTES = 7
_VOLATILE = {"_timestamp", "_runtime"}
_CLIENT = re.compile(r"(?<=wandb-client-artifact://)\w+")  # another one each time
# The guards themselves, and what does nothing but call wandb's own.
_GUARDS = {"_wrap_init", "wrap_log", "_wrap_finish", "guarded", "count", "_interrupted", "_missed"}
_FINDER = "spooler.lens_ship_start"  # stands in every import of the program, and guards itself
_BORDER = "spooler.async_exceptions"  # tells what the guards keep from what they pass on


def trial(seed: int, work: Path) -> Verdict:
    """Run one program three ways and compare."""
    import wandb  # noqa: F401 - once, for all children

    found = Findings()
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WORKLOAD_UID="w")
    children = {}
    for arm in ARMS:
        (work / arm).mkdir()
        children[arm] = Child(lambda _, arm=arm: _live(arm, seed, work / arm))  # type: ignore[misc]
    for arm, child in children.items():
        child.watch(PATIENCE_SECONDS * 2)
        if not child.has_ended:
            child.kill()
            found.check(False, "G8", f"{arm}: hangs")
        elif child.end() != 0:
            if arm == "plain":
                raise RuntimeError("the program fails without the hook too")
            found.check(False, "G8", f"{arm}: the program died")
    if found.failures:
        return found.verdict()
    seen = {arm: json.loads((work / arm / "seen.json").read_text()) for arm in ARMS}
    kept = {arm: _kept(work / arm) for arm in ARMS}
    if not kept["plain"]["history"]:
        raise RuntimeError("wandb kept nothing: there is nothing to compare")
    for arm in ARMS[1:]:
        _compare(arm, seen["plain"], seen[arm], found)
        for what, value in kept["plain"].items():
            found.check(
                kept[arm][what] == value, "G8", f"{arm}: {what}: {_differ(value, kept[arm][what])}"
            )
        found.faults += len(seen[arm])
    accepted = sum(call["accepted"] for call in seen["plain"][:CALLS])
    spool = recorded(work / "hooked" / "spool", found).get("w")
    steps = len(spool.steps) if spool else 0
    found.check(steps == accepted, "G8", f"{steps} recorded of {accepted} that wandb accepted")
    return found.verdict()


# --- the program ----------------------------------------------------------------------------------


class _Nudge:
    """Wakes a thread that changes the data as soon as wandb itself has done with it."""

    def __init__(self) -> None:
        self.change: Callable[[], None] | None = None
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        change, self.change = self.change, None
        if change is not None:
            self.thread = threading.Thread(target=change)
            self.thread.start()

    def wait(self) -> None:
        """Until the data stays as it is."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None


class _Counter:
    """wandb's own rule: it discards a call that names a lower step than the one it is at."""

    def __init__(self) -> None:
        self._step = 0

    def accepts(self, data: Any = None, step: Any = None, commit: Any = None, *_: Any) -> bool:
        """Whether wandb keeps the values of a call that has returned."""
        if step is not None:
            if int(step) < self._step:
                return False
            self._step = int(step)
        self._step += step is None if commit is None else bool(commit)
        return True


def _live(arm: str, seed: int, work: Path) -> None:
    """Run the program of `seed`; what it saw goes to a file."""
    import wandb
    from wandb.sdk.wandb_run import Run

    root = work / "spool"
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(root)
    nudge, theirs = _Nudge(), Run.log

    def log(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return theirs(self, *args, **kwargs)
        finally:
            nudge()

    Run.log = log
    with contextlib.ExitStack() as stack:
        if arm != "plain":
            spooler.install()
        if arm == "troubled":
            stack.enter_context(_trouble(seed, root))
        with contextlib.redirect_stderr(sys.stdout):
            seen = _program(random.Random(seed), wandb, work, nudge, lambda: _disk(arm, seed, root))
    if arm != "plain":
        from spooler.recorder import recorder

        recorder().shutdown()
    wandb.teardown()
    (work / "seen.json").write_text(json.dumps(seen), encoding="utf-8")


def _program(
    rng: random.Random, wandb: Any, work: Path, nudge: _Nudge, disk: Callable[[], None]
) -> list[dict[str, Any]]:
    settings = wandb.Settings(console="off", silent=True)
    run = wandb.init(project="p", id="same", dir=str(work), settings=settings)
    zoo, counter, seen = Zoo(rng), _Counter(), []
    data = zoo.mapping(share_of_bad=0)
    for number in range(CALLS):
        if rng.random() < 0.9:
            data = zoo.mapping(share_of_bad=rng.choice((0, 0, 0, 0.2)))
        args, kwargs = _shape(rng, data, number)
        log = rng.choice((wandb.log, run.log))
        is_shared = rng.random() < 0.15
        if is_shared:
            nudge.change = _changer(data, number)
        if number == CALLS // 2:
            disk()
        before = identities(data)
        outcome = _outcome(lambda: log(*args, **kwargs))  # noqa: B023 - called at once
        nudge.change = None
        nudge.wait()
        same = is_shared or identities(data) == before
        kwargs.pop("sync", None)
        accepted = outcome[0] == "returned" and counter.accepts(*args, **kwargs)
        call = {"outcome": outcome, "accepted": accepted}
        seen.append({**call, "same": same, "condition": condition(data)})
        if rng.random() < 0.3:
            _change(data, number)
    seen.append({"outcome": _outcome(run.finish), "same": True, "condition": None})
    seen.append({"outcome": _outcome(lambda: run.log({"a": 1})), "same": True, "condition": None})
    seen.append({"outcome": _outcome(lambda: wandb.log({"a": 1})), "same": True, "condition": None})
    return seen


def _shape(rng: random.Random, data: Any, number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    import numpy as np

    step: Any = rng.choice((number, number + 10, 0, np.int64(number), True))
    commit: Any = rng.choice((True, False, None, "yes", np.bool_(False)))
    wrong: Any = rng.choice(("one", 1.5, [], object()))
    shapes = (
        ((data,), {}),
        ((), {"data": data}),
        ((data, step), {}),
        ((data,), {"step": step}),
        ((data, step, True), {}),
        ((data,), {"commit": False}),
        ((data, None, False), {}),
        (
            (data,),
            {"step": step, "commit": commit},
        ),
        ((data,), {"sync": True}),
        ((data,), {"step": wrong}),
        ((data, step, True, False, 7), {}),
        ((), {}),
    )
    return rng.choices(shapes, (40, 5, 5, 8, 5, 5, 3, 8, 1, 2, 1, 1))[0]


def _change(data: Any, number: int) -> None:
    """What users do with a dict that they use again."""
    if isinstance(data, dict):
        data.clear()
        data.update({"after": number, "list": [number]})


def _changer(data: Any, number: int) -> Callable[[], None]:
    def change() -> None:
        if not isinstance(data, dict):
            return
        end = time.monotonic() + 0.003
        while time.monotonic() < end:
            for key in range(50):
                data[f"more {key}"] = [key]
            for key in range(50):
                data.pop(f"more {key}")
        _change(data, number)

    return change


def _outcome(call: Callable[[], Any]) -> list[Any]:
    """What a call returned or raised, and from where."""
    try:
        returned = call()
    except Exception as error:  # noqa: BLE001 - whichever it is, it is what we look at
        chain, places = list[str](), list[str]()
        link: BaseException | None = error
        while link is not None and len(chain) < 8:
            chain.append(f"{type(link).__name__}: {_shown(link)}")
            link = link.__cause__ or link.__context__
        for frame in traceback.extract_tb(error.__traceback__):
            if not frame.filename.endswith(("hooks/wandb.py", "hooks/wrappers.py")):
                places.append(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}")
        # How deep an endless value is followed depends on how deep the caller stands.
        return ["raised", chain, list(dict.fromkeys(places))]
    return ["returned", type(returned).__name__]


def _shown(error: BaseException) -> str:
    try:
        text = re.sub(r"/(plain|hooked|troubled)/wandb/offline-run-\d+_\d+", "", str(error))
        return re.sub(r"0x[0-9a-f]+", "0x", text)
    except Exception:  # noqa: BLE001 - some of them cannot be shown
        return "unprintable"


# --- failures -------------------------------------------------------------------------------------


def _disk(arm: str, seed: int, root: Path) -> None:
    """In the middle of the program: the directory is gone, and cannot come back."""
    if arm == "troubled" and seed % DISK == 0 and root.is_dir():
        shutil.rmtree(root, ignore_errors=True)
        with contextlib.suppress(OSError):
            root.write_text("a file where the directory was", encoding="utf-8")


@contextlib.contextmanager
def _trouble(seed: int, root: Path) -> Iterator[None]:
    """Let the disk fail, or each function of lens-ship now and then, inside this block."""
    if seed % DISK == 0:
        if seed % 2:
            root.write_text("a file where the directory should be", encoding="utf-8")
        yield
        return
    rng = random.Random(seed)
    errors = (*ERRORS, lambda: sqlite3.OperationalError("database or disk is full"))
    is_on = [True]

    def failing(function: Any) -> Any:
        def fails(*args: Any, **kwargs: Any) -> Any:
            if is_on[0] and rng.random() < FAILING:
                raise rng.choice(errors)()
            return function(*args, **kwargs)

        return fails

    modules = [m for name, m in list(sys.modules.items()) if name.partition(".")[0] == "spooler"]
    ours: dict[int, Any] = {}
    for module in modules:
        rooms = [module, *(c for c in vars(module).values() if isinstance(c, type))]
        for room in rooms:
            for name, value in list(vars(room).items()):
                if _is_ours(value) and name not in _GUARDS and not name.startswith("__"):
                    ours.setdefault(id(value), (value, failing(value)))
                    with contextlib.suppress(TypeError, AttributeError):
                        setattr(room, name, ours[id(value)][1])
    try:
        yield
    finally:
        is_on[0] = False


def _is_ours(value: Any) -> bool:
    if not isinstance(value, types.FunctionType) or value.__module__ in (_BORDER, _FINDER):
        return False
    return value.__module__.startswith("spooler")


# --- what wandb kept ------------------------------------------------------------------------------


def _kept(work: Path) -> dict[str, Any]:
    """Everything in wandb's file and media that does not tell the time or the process."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = work.rglob("*.wandb")
    history, others = list[Any](), dict[str, int]()
    with file.open("rb") as stream:
        for entry in entries(stream, LogOffset(offset=_HEADER_BYTES)):
            if isinstance(entry, CorruptEntry):
                raise TypeError(f"{file} is damaged: {entry.reason}")
            record = Record.FromString(entry.data)
            kind = str(record.WhichOneof("record_type"))
            if kind == "history":
                named = {
                    item.key or "/".join(item.nested_key): item.value_json
                    for item in record.history.item
                }
                steady = [
                    [name, _CLIENT.sub("", text)]
                    for name, text in named.items()
                    if name not in _VOLATILE
                ]
                history.append([record.history.step.num, sorted(steady)])
            elif kind != "stats":
                others[kind] = others.get(kind, 0) + 1
    media = {
        str(path.relative_to(file.parent)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(file.parent.glob("files/media/**/*"))
        if path.is_file()
    }
    return {"history": history, "media": media, "records": others}


def _compare(arm: str, plain: Any, other: Any, found: Findings) -> None:
    for number, (expected, got) in enumerate(zip(plain, other, strict=True)):
        for what in ("outcome", "same", "condition"):
            if not found.check(
                got[what] == expected[what],
                "G8",
                f"{arm}: call {number}: {what}: {_differ(expected[what], got[what])}",
            ):
                return


def _differ(expected: Any, got: Any) -> str:
    """Where the two part, short enough to read."""
    one, other = json.dumps(expected), json.dumps(got)
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    start = max(0, at - 60)
    return f"…{one[start : at + 160]}… became …{other[start : at + 160]}…"


ATTACK = Attack(
    meaning="the same program of unusual values, calls and changes, with the hook and without",
    promises=("G8",),
    trial=trial,
    trials=Trials(short=1, usual=6, long=60),
    catches=("converts-values-in-place", "swallows-wandb-exceptions", "consumes-an-iterator"),
)
