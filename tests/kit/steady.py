"""A training process that records one step after the other, and a list of those it may rely on.

The list is a file: a line for each step as `record` has answered it, written after the answer. What
it says was taken has to be found in the spool, whatever became of the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.kit import spools

# Standard input is polled between two steps: a closed one ends it. The death of its parent kills it
# (PR_SET_PDEATHSIG), also while it is paused.
_TRAIN = """
import contextlib, ctypes, json, os, pathlib, select, sys
from spooler.recorder import recorder
ctypes.CDLL(None).prctl(1, 9)
root, answers, rest, every, job = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:5]), sys.argv[5]
os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = root
job = compile(job, "job", "exec")
names = {"root": pathlib.Path(root), "contextlib": contextlib}
listed = os.open(answers, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
step = 0
while not select.select([0], [], [], rest)[0]:
    body = {"run": "r", "step": step, "time": 1.0, "closed": True, "data": {"loss": step + 0.5}}
    taken = recorder().record("step", body)
    os.write(listed, b"%d %d\\n" % (step, taken))
    step += 1
    if step % every == 0:
        exec(job, names)
print(json.dumps(recorder().dropped), flush=True)
"""


class Steady:
    """A process that records steps until it is told to end."""

    def __init__(
        self,
        root: Path,
        answers: Path,
        *,
        rest: float = 0.0005,
        every: int = 25,
        job: str = "",
        **environ: str,
    ) -> None:
        """Record below `root`, `rest` seconds apart, with the code of `job` after `every` steps."""
        self._root = root
        self._answers = answers
        answers.touch()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TRAIN, *map(str, (root, answers, rest, every, job))],
            env=spools.environment(PYTHONPATH=str(spools.REPOSITORY), **environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def answers(self) -> list[tuple[int, bool]]:
        """Each step that `record` has answered, in order, and whether it was taken."""
        whole = self._answers.read_text().rpartition("\n")[0].splitlines()
        return [(int(step), taken == "1") for step, taken in map(str.split, whole)]

    def taken(self) -> list[int]:
        """The steps that were taken."""
        return [step for step, taken in self.answers() if taken]

    def tried(self) -> int:
        """How many steps there have been; the process has to be alive to have more."""
        code = self._process.poll()
        assert code is None, f"training ended with {code}: {self._said()}"
        return len(self.answers())

    def go_on(self, steps: int = 200) -> None:
        """Wait until it has tried to record so many steps more."""
        until = self.tried() + steps
        spools.wait_until(lambda: self.tried() >= until)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it in the meantime, as a step that takes long does for the spool."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def recover(self) -> None:
        """Wait until steps are taken again."""
        spools.wait_until(lambda: self.tried() and self.answers()[-1][1])

    def end(self) -> dict[str, int]:
        """Let it end by itself, which has to work; what it has dropped, by reason."""
        said, complained = self._process.communicate(timeout=spools.PATIENCE_SECONDS)
        assert self._process.returncode == 0, (self._process.returncode, complained)
        dropped: dict[str, int] = json.loads(said)
        assert len(self.taken()) + sum(dropped.values()) >= len(self.answers())
        return dropped

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()
        self.close()

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        with contextlib.suppress(ValueError):
            self._process.communicate(timeout=spools.PATIENCE_SECONDS)

    def spool(self) -> Path:
        """The one spool that there is."""
        spools.wait_until(lambda: self.tried() and self.answers())
        (directory,) = spools.spools_below(self._root)
        return directory

    def mapped(self) -> list[str]:
        """What of the root is mapped into its memory."""
        maps = Path(f"/proc/{self.pid}/maps").read_text()
        return [line for line in maps.splitlines() if f" {self._root}/" in line]

    def _said(self) -> str:
        return self._process.communicate(timeout=spools.PATIENCE_SECONDS)[1]


@contextlib.contextmanager
def training(root: Path, answers: Path, **more: object) -> Iterator[Steady]:
    """A `Steady` that has recorded its first steps, ended with the block if not before."""
    process = Steady(root, answers, **more)  # type: ignore[arg-type]
    try:
        process.go_on(50)
        yield process
    finally:
        process.close()


def steps_below(root: Path) -> list[int]:
    """The steps of every spool below a root, in order; each spool has to be whole."""
    return [
        body["step"]
        for directory in spools.spools_below(root)
        for body in spools.read_whole(directory).bodies("step")
    ]
