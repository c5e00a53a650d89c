"""`lens-ship exec`: a job with its own service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipper.cli.options import Number, load_config, more_sinks, settings

if TYPE_CHECKING:
    from shipper.config.schema import Config
    from shipper.launch.run import LaunchPlan

DRAIN_SECONDS = 25.0
_PLACES = ("LENS_SHIP_SPOOL", "LENS_SHIP_STATE", "PRIMUS_LENS_WANDB_OUTPUT_PATH", "STATE_DIRECTORY")


@click.command("exec", context_settings={"allow_interspersed_args": False})
@click.option(
    "--drain",
    type=Number(0),
    help="Seconds after the end of the job for which its records are delivered, or after the first"
    f" SIGTERM.  [default: {DRAIN_SECONDS:g}]",
)
@more_sinks
@settings()
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(
    drain: float | None, command: tuple[str, ...], config_file: Path | None, **flags: Any
) -> None:
    """Run COMMAND, a training job, and deliver what it records. Needs no service and no root.

    COMMAND is hooked without code. It has its terminal, gets its signals and ends as without
    lens-ship, and it runs even if lens-ship cannot. One service delivers for all jobs of a user on
    a node. At the end one line reports what was delivered, what is left, and how to deliver that.
    """
    from shipper.errors import ShipperError
    from shipper.launch.run import run_job, run_plain

    try:
        plan = _plan(drain, config_file, flags)
    except ShipperError as error:
        for line in str(error).splitlines():
            click.echo(f"lens-ship: {line}", err=True)
        click.echo("lens-ship: the job runs, and nothing of it is recorded", err=True)
        run_plain(list(command))
    run_job(list(command), plan)


def _plan(drain: float | None, file: Path | None, flags: dict[str, Any]) -> LaunchPlan:
    from dataclasses import replace

    from shipper.config.load import load
    from shipper.errors import ConfigError
    from shipper.launch.run import LaunchPlan

    try:
        config = load_config(flags, file, needs_spool=False)
        is_usable = True
    except ConfigError:
        # The service ends with the reason. The job records all the same.
        places = {name: flags[name] for name in ("spool", "state")}
        config = load(
            places, {n: os.environ[n] for n in _PLACES if n in os.environ}, needs_spool=False
        )
        is_usable = False
    spool, state, words = own_places(config, file, flags)
    if drain is None:
        drain = config.drain_seconds if "drain_seconds" in config.given else DRAIN_SECONDS
    config = replace(config, spool=spool, state=state)
    return LaunchPlan(config=config, flags=words, drain=drain, is_usable=is_usable)


def own_places(
    config: Config, file: Path | None, flags: dict[str, Any]
) -> tuple[Path, Path, list[str]]:
    """Spool root and state of a service of this user, and the flags that give it all settings."""
    from shipper.config.load import SETTINGS
    from shipper.launch.place import choose

    given = {name: getattr(config, name) for name in ("spool", "state") if name in config.given}
    spool, state = choose(os.environ, spool=given.get("spool"), state=given.get("state"))
    words = ["--spool", str(spool), "--state", str(state)]
    if file:
        words += ["--config", str(file)]
    for one in SETTINGS:
        if one.name not in ("spool", "state", "drain_seconds") and flags[one.name] is not None:
            words += [one.flag, flags[one.name]]
    for text in flags["sinks"]:
        words += ["--sink", text]
    return spool, state, words
