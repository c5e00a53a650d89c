"""From the start of a job to the exit code of `lens-ship exec`."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import click

from shipper.config.schema import Config
from shipper.errors import ShipperError
from shipper.humanize import counted, sanitize
from shipper.install.pth import is_activated_for, link
from shipper.launch.account import Accountant, LaunchAccount
from shipper.launch.job import AWAITED, JobProcess, reap
from shipper.launch.keeper import ServiceKeeper
from spooler.config import OUTPUT_PATH
from spooler.spool.identity import LAUNCH

# How often to look whether a service runs, and during a drain what is left.
_KEEP_SECONDS = 1.0
_LOOK_SECONDS = 0.2
# A drain takes so long at least, if it has to: also of a job that used the time after its SIGTERM.
_LEAST_SECONDS = 5.0
_MOST_SECONDS = 3600.0  # of a drain, for the service
# What the service gets to end after its last record, and after the drain.
_LAST_SECONDS = 2.0
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """What a job gets: `flags` are those of the settings, for the service and for the user."""

    config: Config  # with the places
    flags: Sequence[str]
    drain: float  # seconds
    is_usable: bool  # or the service ends with what is wrong with the settings

    @property
    def command(self) -> str:
        """What delivers the rest."""
        places = ["--spool", str(self.config.spool), "--state", str(self.config.state)]
        words = self.flags if self.is_usable else places
        more = [] if has_receiver(self.config) else ["--processor-url", "URL"]
        return shlex.join(["lens-ship", "run", "--once", *words, *more])


def has_receiver(config: Config) -> bool:
    """Whether one is given, or nothing is to be sent. Otherwise only a job may name one."""
    return bool(config.sinks or config.processor_url or not config.api_reporting)


def run_plain(command: list[str]) -> NoReturn:
    """Become the command."""
    try:
        os.execvp(command[0], command)
    except OSError as error:
        _refuse(command, error)


def run_job(command: list[str], plan: LaunchPlan) -> NoReturn:
    """Run the command with a service; ends as the command does."""
    launch, config = uuid.uuid4().hex, plan.config
    try:
        job = JobProcess(command, _environment(command, config, launch))
    except OSError as error:
        _refuse(command, error)
    try:
        Launch(job, plan, launch).run()
    except Exception as error:  # noqa: BLE001 - the job is not ended by a failure of ours
        text = sanitize(f"{type(error).__name__}: {error}", 500)
        _say(f"internal error ({text}). Records stay in {config.spool}")
        while job.status is None:
            _step(job, None, None)
    job.leave()


def _environment(command: list[str], config: Config, launch: str) -> Mapping[str, str]:
    environ = {**os.environ, OUTPUT_PATH: str(config.spool), LAUNCH: launch}
    if not is_activated_for(command[0]):
        try:
            hook = str(link(config.state / "hook"))
            environ["PYTHONPATH"] = os.pathsep.join(filter(None, (hook, environ.get("PYTHONPATH"))))
        except (ShipperError, OSError) as error:
            _say(f"the hook is not activated ({sanitize(error, 500)})")
    return environ


class Launch:
    """A job that runs, and what is left to do after its end."""

    def __init__(self, job: JobProcess, plan: LaunchPlan, launch: str) -> None:
        self._job = job
        self._plan = plan
        self._accountant = Accountant(plan.config, launch)
        self._keeper = ServiceKeeper(
            ["--drain-seconds", f"{min(plan.drain, _MOST_SECONDS):g}", *_service_flags(plan)],
            spool=plan.config.spool,
            state=plan.config.state,
        )
        self._asked_at: float | None = None  # monotonic seconds of the first SIGTERM
        self._is_enough = False  # a person or a second SIGTERM has ended the drain

    def run(self) -> None:
        """Wait for the job, then until its records are delivered or the time is over."""
        self._keeper.keep()
        config = self._plan.config
        if self._keeper.pid is not None and self._plan.is_usable and not has_receiver(config):
            _say(
                f"no receiver is given: records stay in {config.spool}, unless the job"
                " names one. Give --processor-url, --sink or --config"
            )
        while self._job.status is None:
            self._keeper.keep()
            self._await(_KEEP_SECONDS if self._keeper.pid is None else None)
        if other := self._keeper.foreign():
            _say(f"a service with --state {other} ships {self._plan.config.spool}")
            return
        self._drain()
        self._stop()
        self._report(self._accountant.count())

    def _drain(self) -> None:
        ended = time.monotonic()
        until = ended + self._plan.drain
        if self._asked_at is not None:
            until = max(
                self._asked_at + self._plan.drain, ended + min(_LEAST_SECONDS, until - ended)
            )
        shown, delivered_at = not sys.stderr.isatty(), None
        self._keeper.end()
        while (now := time.monotonic()) < until and not self._is_enough:
            left = self._accountant.count().pending
            if not left:
                delivered_at = delivered_at or now
                if self._keeper.pid is None or now - delivered_at >= _LAST_SECONDS:
                    return
            elif self._keeper.pid is None:
                if self._keeper.is_done:
                    return
                self._keeper.keep()
                self._keeper.end()
            if left and not shown and now - ended >= _KEEP_SECONDS:
                shown = True
                _say(f"delivering {counted(left, 'record')}, Ctrl-C ends it")
            self._await(min(_LOOK_SECONDS, max(0.0, until - now)))

    def _stop(self) -> None:
        """End the service at once, so that the account does not change any more."""
        until = time.monotonic() + _LAST_SECONDS
        self._keeper.end()
        while self._keeper.pid is not None and time.monotonic() < until:
            self._await(_LOOK_SECONDS)
        self._keeper.kill()
        while self._keeper.pid is not None:
            self._await(None)

    def _await(self, seconds: float | None) -> None:
        drains = self._job.status is not None  # before the signal, which may be what ends the job
        number = _step(self._job, self._keeper, seconds)
        if number not in _ENDING:
            return
        again = self._asked_at is not None or number != signal.SIGTERM
        if drains and again:
            self._is_enough = True
        elif number == signal.SIGTERM and self._asked_at is None:
            self._asked_at = time.monotonic()

    def _report(self, account: LaunchAccount) -> None:
        text = account.text()
        if account.pending:
            text += f" in {self._plan.config.spool}. Deliver it: {self._plan.command}"
        if account.dead_letters:
            state = shlex.quote(str(self._plan.config.state))
            text += f". Reasons of dead letters: lens-ship dead-letter list --state {state}"
        _say(text)


def _step(job: JobProcess, keeper: ServiceKeeper | None, seconds: float | None) -> int:
    """Wait for one signal and answer it; its number, SIGALRM after so many seconds without one."""
    # Not sigtimedwait: stopped until after its time, it returns what no signal was.
    signal.setitimer(signal.ITIMER_REAL, 0.0 if seconds is None else max(seconds, 1e-3))
    number = signal.sigwaitinfo(AWAITED).si_signo
    if number not in (signal.SIGCHLD, signal.SIGALRM) and job.status is None:
        job.forward(number)
    for pid, status in reap():
        if pid == job.pid:
            job.changed(status)
        elif keeper is not None and pid == keeper.pid and not os.WIFSTOPPED(status):
            keeper.ended(status)
    return number


def _service_flags(plan: LaunchPlan) -> list[str]:
    off = [] if "http_listen" in plan.config.given else ["--http-listen", "off"]
    return [*plan.flags, *off]


def _refuse(command: list[str], error: OSError) -> NoReturn:
    _say(f"{sanitize(command[0], None)}: {error.strerror}")
    sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


def _say(text: str) -> None:
    """One line. The terminal may be gone."""
    with suppress(OSError, ValueError):
        click.echo(f"lens-ship: {text}", err=True)
