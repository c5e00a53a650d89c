"""Starts the agent without code, in every process that trains; `spooler.hooks.training` knows when.

All ranks of a node start it, and each collector finds out which one of them collects: whichever is
first, then another one when that ends or is silent. So the log and the XPU timer have one reader on
a node, and the periodic stacks are one rank's. Hangs and signals are each rank's own.
"""

from __future__ import annotations

import os

from spooler import config, stderr
from spooler.diagnosis.agent import DiagnosisAgent
from spooler.spool.identity import Identity

# Set by DLRover's agent, a launcher, for the processes that it starts. It samples the XPU timer
# itself, and a master that gets a sample twice finds hangs where there are none.
_DLROVER_AGENT = "DLROVER_PARAL_CONFIG_PATH"
_OF_LAUNCHERS = frozenset({"log", "metric"})  # the stacks that matter are the ranks'


def start_from_environ(*, launcher: bool = False) -> None:
    """Begin to collect what `PRIMUS_LENS_COLLECTORS` names, unless that is done already.

    `launcher`: this process only starts the ranks of the node, and outlives them.
    """
    bad: dict[str, str] = {}
    wanted = config.collectors_from_environ(os.environ, bad).wanted
    left = wanted & {"metric"} if os.environ.get(_DLROVER_AGENT) else frozenset[str]()
    if not launcher and not config.read(Identity, config.environ())["local_rank"]:
        stderr.report_settings(bad)
        _report_unset(wanted - left)
        _report_left(left)
    wanted -= left
    if launcher:
        wanted &= _OF_LAUNCHERS
    if wanted:
        DiagnosisAgent.begin(wanted)


def _report_left(left: frozenset[str]) -> None:
    if left:
        stderr.report_once(
            "dlrover",
            "The metric collector is off: DLRover's agent samples the XPU timer, and its master"
            " must not get a sample twice.",
        )


def _report_unset(wanted: frozenset[str]) -> None:
    """Say which collectors that were asked for have nothing to collect from."""
    needed = {"log": config.LOG_FILE}
    if wanted != config.ALL_COLLECTORS:  # by its name: a node without a timer is not unusual
        needed["metric"] = config.XPU_TIMER_PORT
    for name, variable in needed.items():
        if name in wanted and not os.environ.get(variable):
            stderr.report_once(
                f"unset {name}", f"The {name} collector is off: {variable} is not set."
            )
