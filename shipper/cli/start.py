"""`lens-ship start|stop`: a service of this user in the background."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shipper.cli.exec import own_places
from shipper.cli.options import json_flag, load_config, more_sinks, settings

if TYPE_CHECKING:
    from shipper.launch.background import Serving


@click.command()
@json_flag
@more_sinks
@settings()
def start(as_json: bool, config_file: Path | None, **flags: Any) -> None:
    """Start a service in the background for this user, or find the one that runs.

    For notebooks. The service outlives the kernel or terminal, and runs until `lens-ship stop`.
    Prints one line. If another service ships the spool root already, nothing is started.
    """
    from shipper.cli.render import print_json
    from shipper.launch import background
    from shipper.launch.run import has_receiver

    config = load_config(flags, config_file, needs_spool=False, sends=True)
    spool, state, words = own_places(config, config_file, flags)
    off = [] if "http_listen" in config.given else ["--http-listen", "off"]
    found = background.start(spool, state, [*words, *off])
    given = len(words) > len(["--spool", spool, "--state", state])
    text = _sentence(found, spool, given=given, receiver=has_receiver(config))
    if as_json:
        print_json({"text": text, "spool": str(spool), "state": str(found.state), "pid": found.pid})
    else:
        click.echo(f"lens-ship: {text}")


def _sentence(found: Serving, spool: Path, *, given: bool, receiver: bool) -> str:
    """One line about the service, and the command that shows what it delivers."""
    if found.foreign:
        return f"a service with state {found.state} delivers {spool} already"
    places = shlex.join(["--spool", str(spool), "--state", str(found.state)])
    process = f"service (process {found.pid})" if found.pid else "service"
    text = f"{process} {'started for' if found.started else 'delivers'} {spool}"
    if given and not found.started:
        text += f" already, with the settings of its start. To change them: lens-ship stop {places}"
    if found.started and not receiver:
        text += ". No receiver is given (processor_url, sink or config): records stay there, unless"
        text += " a job names one"
    return f"{text}. To see it: lens-ship status {places}"


@click.command()
@settings("spool", "state")
def stop(config_file: Path | None, **flags: Any) -> None:
    """End the service of this user that runs in the background, and wait for its end.

    It first delivers what is there for up to its --drain-seconds. The rest stays in the spools.
    """
    from shipper.launch import background
    from shipper.launch.keeper import foreign
    from shipper.launch.place import choose

    config = load_config(flags, config_file, needs_spool=False)
    given = {name: getattr(config, name) for name in ("spool", "state") if name in config.given}
    spool, state = choose(
        os.environ, spool=given.get("spool"), state=given.get("state"), make=False
    )
    pid = background.stop(state)
    if pid:
        text = f"service (process {pid}) stopped"
    elif other := foreign(spool, state):
        text = f"no service runs with state {state}. One with state {other} delivers {spool}"
    else:
        text = f"no service runs with state {state}. If its start had --spool or --state, give them"
        text += " here too"
    click.echo(f"lens-ship: {text}")
