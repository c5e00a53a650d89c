"""Training programs against real wandb offline: `scenario.py NAME REPORT` writes what it saw.

Runs in an interpreter that has wandb and lens-ship and perhaps nothing of the tests; it imports
neither pytest nor the test kit. Whether the hook is on, the environment says; a program that wants
it calls `spooler.install()`, which does nothing where the environment switches it off.
"""

from __future__ import annotations

import json
import math
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import odd_calls

# On Python 3.12 and later forking a process that has threads is warned of.
warnings.simplefilter("ignore")

REPORT: dict[str, Any] = {}
PATIENCE_SECONDS = 180.0


def outcome(call: Callable[[], Any]) -> list[str]:
    """What a call returned or raised, in a form that is the same in two processes."""
    try:
        returned = call()
    except Exception as error:  # noqa: BLE001 - whichever it is, it is what we look at
        return ["raised", type(error).__name__, str(error).split("(")[0]]
    return ["returned", type(returned).__name__]


def start(**settings: Any) -> Any:
    """`wandb.init` without anything that needs a network or a terminal."""
    import wandb

    run = wandb.init(
        project="scenario",
        dir=os.environ["WANDB_DIR"],
        settings=wandb.Settings(console="off", silent=True),
        **settings,
    )
    be_patient()
    return run


def be_patient() -> None:
    """Have forks and the end wait for the background thread however slow this machine is."""
    recorder = sys.modules.get("spooler.recorder")
    if recorder is not None:
        recorder._FORK_SECONDS = recorder._SHUTDOWN_SECONDS = PATIENCE_SECONDS  # type: ignore[attr-defined]


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what the background thread does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)


# --- the programs ---------------------------------------------------------------------------------


def values() -> None:
    """One run that logs everything that users log."""
    import spooler

    spooler.install()
    import logged
    import numpy as np
    import wandb

    REPORT["before init"] = outcome(lambda: wandb.log({"a": 1}))
    run = start(config={"lr": 0.1}, name="all-values", tags=["one"], group="g", job_type="train")
    REPORT["run"] = run.id
    given: dict[str, dict[str, Any]] = {
        "python": {"int": 7, "float": 0.1, "true": True, "text": "ü", "none": None},
        "nested": {"train": {"loss": 0.5, "deep": {"er": 1}}, "flat": 2},
        "numpy": {
            "float32": np.float32(0.5),
            "int64": np.int64(3),
            "0d": np.array(2.5),
            "one": np.array([1.5]),
            "bool": np.bool_(True),
        },
        "tensor": {"loss": logged.Tensor(0.25), "one": logged.Tensor(0.75, (1,))},
        "large": {"large": 2**70, "largest": 10**400},
        "nonfinite": {"nan": math.nan, "inf": math.inf, "ninf": -math.inf},
        "list": {"list": [1, 2.5, "x"], "small": np.arange(3), "array": np.zeros((10, 10))},
        "histogram": {"media": wandb.Histogram([1.0, 2.0, 2.0])},
        "html": {"media": wandb.Html("<p>x</p>")},
        "table": {"media": logged.table()},
        "image": {"media": logged.image(np.zeros((2, 2, 3), dtype=np.uint8))},
        "empty": {},
        "raises": {"bad": logged.Tensor(KeyError("gone")), "good": 1},
        "raises to us": {"bad": logged.stubborn(), "good": 1},
    }
    for name, data in given.items():
        shape = {key: id(value) for key, value in data.items()}
        REPORT[name] = outcome(lambda data=data: wandb.log(data))  # type: ignore[misc]
        REPORT[f"{name} unchanged"] = {key: id(value) for key, value in data.items()} == shape
    REPORT["not a map"] = outcome(lambda: wandb.log([1, 2]))
    REPORT["keys no text"] = outcome(lambda: wandb.log({1: 2}))
    REPORT["wrong argument"] = outcome(lambda: wandb.log({"a": 1}, no_such_argument=1))
    REPORT["no argument"] = outcome(lambda: wandb.log())
    REPORT["finish"] = outcome(wandb.finish)
    REPORT["after finish"] = outcome(lambda: run.log({"a": 1}))
    REPORT["module after finish"] = outcome(lambda: wandb.log({"a": 1}))
    REPORT["finish again"] = outcome(run.finish)


def steps() -> None:
    """Steps by wandb's own counter, given ones, parts; several runs; and one that is left open."""
    import spooler

    spooler.install()
    import wandb

    run = start()
    wandb.log({"a": 0})
    wandb.log({"a": 1})
    run.log({"part": 1}, commit=False)
    run.log({"part": 2, "b": {"c": 3}}, commit=False)
    run.log({"last": 3})
    wandb.log({"a": 3})
    wandb.log({"given": 10}, step=10)
    wandb.log({"same": 10}, step=10)
    wandb.log({"positional": 12}, 12)
    wandb.log({"positional": 13}, 13, True)
    wandb.log({"closed": 20}, step=20, commit=True)
    wandb.log(data={"named": 21})
    wandb.log({"open": 22}, commit=False)
    run.finish()
    REPORT["first"] = run.id

    with start() as second:
        second.log({"x": 1})
        wandb.log({"x": 2})
    REPORT["second"] = second.id

    try:
        left, right = start(reinit="create_new"), start(reinit="create_new")
    except Exception:  # noqa: BLE001 - each version that has one run at a time says so in its way
        REPORT["beside"] = None
    else:
        for number in range(3):
            left.log({"left": number})
            right.log({"right": number * 10}, step=number * 10)
        left.finish()
        right.log({"right": 30}, step=30)
        right.finish()
        REPORT["beside"] = [left.id, right.id]

    try:
        with start() as failed:
            failed.log({"y": 1})
            raise ValueError("the user's own")
    except ValueError as error:
        REPORT["user's error"] = str(error)
    REPORT["failed"] = failed.id

    last = start()
    wandb.log({"z": 1})
    wandb.log({"z": 2})
    REPORT["last"] = last.id


def configured() -> None:
    """A configuration that changes while the run goes on, and again just before its end."""
    import spooler

    spooler.install()
    import wandb

    from spooler.recorder import recorder

    config = {"lr": 0.1, "model": {"layers": 2, "hf_token": "hf_0123456789abcdefghij"}}
    run = start(config={**config, "sizes": [1, 2], "seed": None})
    wandb.log({"a": 1})
    wandb.config.update({"batch": 8, "lr": 0.1})
    wait_until(lambda: recorder().recorded["run"] >= 2)
    REPORT["while it runs"] = recorder().recorded["run"]
    for number in range(100):
        run.config.update({"phase": number}, allow_val_change=True)
    wandb.config["db"] = "postgres://user:p4ssw0rd@host/db"
    run.finish()
    REPORT["run"] = run.id


def megatron() -> None:
    """Every rank runs Megatron's loop. Only the last one logs."""
    import argparse

    import logged

    sys.path.insert(0, str(Path(__file__).with_name("stand_ins")))
    import spooler

    spooler.install()
    from megatron.training import global_vars, training  # type: ignore[import-not-found]

    args = argparse.Namespace(
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
        wandb_project="pretraining",
        wandb_exp_name="gpt",
        wandb_save_dir=os.environ["WANDB_DIR"],
        global_batch_size=16,
        consumed_train_samples=0,
        **{f"option_{number:03}": number for number in range(700)},
    )
    global_vars.set_global_variables(args)
    for iteration in range(1, 4):
        args.consumed_train_samples += args.global_batch_size
        loss = logged.Tensor(1 / iteration, (1,))
        training.training_log({"lm loss": loss}, 1e-4, iteration, 0.5)
        if iteration == 2:
            training.evaluate_and_print_results({"lm loss": 0.75}, iteration)
    import wandb

    wandb.finish()


def late() -> None:
    """The framework torchtitan is imported after `wandb.init`."""
    sys.path.insert(0, str(Path(__file__).with_name("stand_ins")))
    import spooler

    spooler.install()
    stages = {"parallelism": {"pipeline_parallel_degree": 2}}
    run = start(config={"metrics": {"save_for_all_ranks": False}, **stages})
    import torchtitan  # type: ignore[import-not-found]  # noqa: F401

    run.log({"loss": 1.0}, step=1)
    run.log({"loss": 0.5}, step=2)
    run.finish()


def several() -> None:
    """Runs one after the other: the same steps again, then further ones, then the second again."""
    import spooler

    spooler.install()
    REPORT["runs"] = []
    second = None
    for first_step, again in ((0, False), (0, False), (50, False), (70, True)):
        with start(**({"id": second, "resume": "allow"} if again else {})) as run:
            run.log({"loss": 1.0}, step=first_step)
            run.log({"loss": 0.5}, step=first_step + 10)
        REPORT["runs"].append(run.id)
        second = REPORT["runs"][1] if len(REPORT["runs"]) > 1 else None


def plain() -> None:
    """A script that has never heard of us, and forgets to finish."""
    import wandb

    REPORT["run"] = start(name="plain").id
    for number in range(5):
        wandb.log({"loss": 1 / (number + 1)})
    REPORT["hooked"] = hasattr(wandb.init, "_lens_ship_original")
    raise SystemExit(3)


def adopt() -> None:
    """The hook comes when a run has begun and `wandb.log` has been handed around."""
    import wandb

    run = start(name="adopted")
    held = wandb.log
    held({"before": 1})
    held({"before": 2})
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = os.environ["LATE_OUTPUT_PATH"]
    import spooler

    spooler.install()
    wandb.log({"after": 2})
    run.log({"after": 3})
    from wandb import log

    log({"after": 4})
    spooler.uninstall()
    wandb.log({"unhooked": 5})
    run.log({"unhooked": 6})
    spooler.install()
    wandb.log({"again": 7})
    run.finish()
    REPORT["run"] = run.id


def disabled() -> None:
    """Disabled by WANDB_MODE or else by the argument: wandb does nothing, and so do we."""
    import spooler

    spooler.install()
    import wandb

    run = start() if os.environ["WANDB_MODE"] == "disabled" else start(mode="disabled")
    wandb.log({"a": 1})
    run.log({"a": 2})
    run.finish()
    REPORT["directory"] = spooler.stats()["directory"]


def faults() -> None:
    """Our own code fails in every place: training notices nothing."""
    import spooler

    spooler.install()
    import wandb

    from spooler import recorder
    from spooler.hooks import wandb as hook

    run = start()
    REPORT["run"] = run.id
    wandb.log({"a": 0})
    # Which is recorded on another thread: else it meets one of the faults, or none.
    wait_until(lambda: recorder.recorder().recorded["detection"] > 0)
    for place, name in (
        (recorder.Recorder, "record"),
        (hook, "observe_log"),
        (recorder, "_pack"),
        (hook, "before_log"),
    ):
        original = getattr(place, name)

        def broken(*_args: Any, **_kwargs: Any) -> Any:
            raise ZeroDivisionError("ours")

        setattr(place, name, broken)
        REPORT[name] = [outcome(lambda: wandb.log({"a": 1})) for _ in range(3)]
        setattr(place, name, original)
    wandb.log({"a": 99})
    REPORT["dropped"] = spooler.stats()["dropped"]
    # Where even counting fails there is nobody to tell.
    counting, recorder.Recorder.bug = recorder.Recorder.bug, broken
    looking, hook.observe_log = hook.observe_log, broken
    REPORT["bug"] = [outcome(lambda: wandb.log({"a": 2})) for _ in range(3)]
    recorder.Recorder.bug, hook.observe_log = counting, looking
    hook._observe_finish = broken
    REPORT["finish"] = outcome(run.finish)
    hook._observe_init = broken
    REPORT["init"] = outcome(lambda: REPORT.update(second=start().id))
    REPORT["log"] = outcome(lambda: wandb.log({"b": 1}))
    wandb.finish()


def unwritable() -> None:
    """The spool's path is a file."""
    import spooler

    spooler.install()
    import wandb

    run = start()
    REPORT["logs"] = [outcome(lambda: wandb.log({"a": 1})) for _ in range(5)]
    REPORT["finish"] = outcome(run.finish)
    # On another thread.
    wait_until(lambda: sum(spooler.stats()["dropped"].values()) >= 8)
    stats = spooler.stats()
    REPORT["dropped"], REPORT["recorded"] = sum(stats["dropped"].values()), stats["recorded"]
    REPORT["errors"] = spooler.get_global_reporter().stats["errors"]
    REPORT["run"] = run.id


def parallel() -> None:
    """Threads, a signal handler, a fork and multiprocessing under one run."""
    import multiprocessing

    import spooler

    spooler.install()
    import wandb

    run = start()

    def log(index: int) -> None:
        for number in range(100):
            run.log({f"thread-{index}": number})

    handled = []

    def handler(_signal: int, _frame: Any) -> None:
        from spooler.recorder import recorder

        handled.append(recorder().record("signal", {"n": len(handled)}))
        if ticking:  # only now: while a thread stands still they would run inside each other
            signal.setitimer(signal.ITIMER_REAL, 0.002)

    ticking = True
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.002)
    threads = [threading.Thread(target=log, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for number in range(100):
        wandb.log({"main": number})
    for thread in threads:
        thread.join()
    ticking = False
    signal.setitimer(signal.ITIMER_REAL, 0)
    REPORT["handled"] = [len(handled), all(handled)]

    child = os.fork()
    if child == 0:
        from spooler.recorder import recorder

        run.log({"child": 7})
        recorder().record("child", {"pid": os.getpid()})
        os._exit(0)
    REPORT["fork"] = [child, os.waitpid(child, 0)[1]]

    process = multiprocessing.get_context("fork").Process(target=_nothing)
    process.start()
    process.join()
    REPORT["multiprocessing"] = process.exitcode
    wandb.log({"end": 1})
    run.finish()
    REPORT["run"], REPORT["pid"] = run.id, os.getpid()


def _nothing() -> None:
    """A data loader's worker: it is forked, and ends."""


def looks() -> None:
    """What a program can see of wandb's functions, and hand to other processes."""
    import concurrent.futures
    import copy
    import functools
    import hashlib
    import inspect
    import multiprocessing
    import pickle

    import wandb
    from wandb.sdk import wandb_init
    from wandb.sdk.wandb_run import Run

    def digest(text: Any) -> str:
        return hashlib.sha256(str(text).encode()).hexdigest()

    functions = {
        "init": wandb.init,
        "finish": wandb.finish,
        "Run.log": Run.log,
        "Run.define_metric": Run.define_metric,
        "Run.finish": Run.finish,
        "Run._finish": Run._finish,
    }
    for name, function in functions.items():
        REPORT[name] = {
            "pickled": outcome(lambda f=function: pickle.dumps(f)),  # type: ignore[misc]
            "same": pickle.loads(pickle.dumps(function)) is function,  # noqa: S301 - our own
            "copied": copy.deepcopy(function) is function,
            "signature": re.sub("0x[0-9a-f]+", "", str(inspect.signature(function))),
            "arguments": inspect.getfullargspec(function).args,
            "source": digest(inspect.getsource(function)),
            "kinds": [inspect.isfunction(function), inspect.iscoroutinefunction(function)],
            "names": [function.__module__, function.__qualname__, function.__name__],
            "doc": digest(function.__doc__),
            "annotations": sorted(function.__annotations__),
        }
    REPORT["one init"] = [
        wandb.init is wandb.sdk.init,
        wandb.init is wandb_init.init,
        wandb.init == wandb_init.init,
        len({wandb.init, wandb.sdk.init, wandb_init.init}),
    ]
    partial = functools.partial(wandb.init, mode="disabled")
    REPORT["partial"] = outcome(lambda: pickle.dumps(partial))
    os.environ["WANDB_MODE"] = "disabled"
    for method in ("fork", "spawn", "forkserver"):
        with concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context(method), initializer=wandb.init
        ) as pool:
            REPORT[method] = pool.submit(abs, -1).result()
    REPORT["hooked"] = hasattr(wandb.init, "_lens_ship_original")


def interrupted() -> None:
    """A time limit that comes while our code runs, some hundred times."""
    import random

    import spooler

    spooler.install()
    import wandb

    raised = caught = number = 0
    rng = random.Random(7)

    def handler(_number: int, frame: Any) -> None:
        nonlocal raised
        while frame is not None:
            package = frame.f_globals.get("__name__", "").split(".")[0]
            if package == "spooler":
                raised += 1
                raise TimeoutError("time is up")
            if package in ("wandb", "__main__"):
                # What wandb makes of it is not ours to say.
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-6, 200e-6))
                return
            frame = frame.f_back

    run = start()
    wandb.log({"n": 0})
    signal.signal(signal.SIGALRM, handler)
    while raised < 300:
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-6, 500e-6))
            before = raised
            while raised == before:
                number += 1
                wandb.log({"n": number})
        except TimeoutError:
            caught += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    wandb.log({"n": -1})
    run.finish()
    REPORT["run"] = run.id
    REPORT["raised"], REPORT["caught"] = raised, caught
    REPORT["dropped"] = spooler.stats()["dropped"]


def odd(calls: Callable[[Any], None]) -> None:
    """One run, and what `odd_calls` does with it."""
    import spooler

    spooler.install()
    run = start()
    REPORT.update(run=run.id, pid=os.getpid())
    calls(run)
    if calls is not odd_calls.ending:
        run.finish()


def axes() -> None:
    """Runs that define axes before, between and after their calls, as chance has it."""
    import random

    import spooler

    spooler.install()

    chance = random.Random(int(os.environ["AXES_SEED"]))
    REPORT["runs"] = []
    for _ in range(int(os.environ["AXES_RUNS"])):
        run = start()
        REPORT["runs"].append(run.id)
        steps: dict[str, int] = {}
        globs = chance.choice([["*"], ["train/*", "eval/*"]])  # which do not overlap
        for _ in range(chance.randint(0, 3)):
            _define(run, chance, steps, globs)
        for _ in range(12):
            for part in range(chance.choice([1, 1, 1, 2, 3]), 0, -1):
                odd = part == 1 and chance.random() < 0.1  # in the value that wandb keeps
                run.log(_row(chance, steps, odd), commit=None if part == 1 else False)
            if chance.random() < 0.2:
                _define(run, chance, steps, globs)
        run.finish()


def _define(run: Any, chance: Any, steps: dict[str, int], globs: list[str]) -> None:
    """One call of `define_metric`; `steps` has the axes so far, with their last values."""
    import wandb

    step = chance.choice([None, "s", "n/t", "u"])
    metric: Any = step
    if step is not None and step not in steps:
        steps[step] = 0
        metric = wandb.define_metric(step)
    run.define_metric(
        chance.choice([*globs, *globs, "train/loss", "other"]),
        step_metric=metric,
        step_sync=chance.choice([None, None, None, True, False]),
        overwrite=chance.choice([None, None, None, True]),
    )


def _row(chance: Any, steps: dict[str, int], odd: bool) -> dict[str, Any]:
    names = ["train/loss", "train/a", "eval/a", "eval/b", "other", "more"]
    data: dict[str, Any] = {name: chance.random() for name in chance.sample(names, 3)}
    if chance.random() < 0.2:
        data["train/nested"] = {"a": 1, "b": 2.5}
    for axis in steps:
        steps[axis] += chance.choice([1, 10, 10, -3])
        values = [float("nan"), -1, 2**40, steps[axis] + 0.5] if odd else [steps[axis]]
        if chance.random() < 0.7:
            data[axis] = chance.choice(values)
    return data


PROGRAMS = {
    program.__name__: program
    for program in (
        values,
        steps,
        configured,
        megatron,
        late,
        several,
        plain,
        adopt,
        disabled,
        faults,
        unwritable,
        parallel,
        looks,
        interrupted,
        axes,
    )
}


def main() -> None:
    """Run one program; write down what it saw, also when it does not get to its end."""
    name, report = sys.argv[1:]
    try:
        if name in odd_calls.CALLS:
            odd(odd_calls.CALLS[name])
        else:
            PROGRAMS[name]()
    finally:
        be_patient()
        Path(report).write_text(json.dumps(REPORT), encoding="utf-8")


if __name__ == "__main__":
    main()
