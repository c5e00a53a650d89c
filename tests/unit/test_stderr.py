"""What is said on stderr: each trouble once, with our name, and never at the program's expense."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from spooler import stderr

pytestmark = pytest.mark.promise("G2")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stderr, "_reported", {})


def test_each_key_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        stderr.report_once("a", "first")
        stderr.report_once("b", "second")
    assert capsys.readouterr().err == "[Primus Lens WandB] first\n[Primus Lens WandB] second\n"


def test_threads_together_say_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    together = threading.Barrier(8)

    def say() -> None:
        together.wait()
        stderr.report_once("a", "first")

    threads = [threading.Thread(target=say) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert capsys.readouterr().err.count("first") == 1


@pytest.mark.parametrize("value", ["true", "1", "YES", " on "])
def test_more_is_said_when_asked_for(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PRIMUS_LENS_WANDB_DEBUG", value)
    stderr.debug("details")
    assert capsys.readouterr().err == "[Primus Lens WandB] details\n"


@pytest.mark.parametrize("value", [None, "", "false", "0", "nonsense"])
def test_and_otherwise_not(
    value: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PRIMUS_LENS_WANDB_DEBUG", raising=False)
    if value is not None:
        monkeypatch.setenv("PRIMUS_LENS_WANDB_DEBUG", value)
    stderr.debug("details")
    assert capsys.readouterr().err == ""


class _Closed:
    def write(self, _text: str) -> Any:
        raise ValueError("I/O operation on closed file")


class _Busy:
    def write(self, _text: str) -> Any:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")


class _Gone:
    def write(self, _text: str) -> Any:
        raise BrokenPipeError


@pytest.mark.parametrize("stream", [None, _Closed(), _Busy(), _Gone(), object()])
def test_a_stderr_that_does_not_work_is_nobody_s_trouble(
    stream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    stderr.report_once("a", "first")
