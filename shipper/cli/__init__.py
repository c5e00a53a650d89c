"""The command line: finds the command in the registry and turns errors into exit codes.

A command is one file here and one line in `REGISTRY`. Its file imports the rest of the service when
the command runs, not before.
"""

from __future__ import annotations

import difflib
import io
import os
import sys
from importlib import import_module

import click

import spooler
from shipper.cli.options import Group, quiet_on_closed_pipe
from shipper.errors import ShipperError
from shipper.humanize import sanitize

REGISTRY: dict[str, str] = {
    "run": "shipper.cli.run:run",
    "exec": "shipper.cli.exec:exec_",
    "start": "shipper.cli.start:start",
    "stop": "shipper.cli.start:stop",
    "check": "shipper.cli.check:check",
    "status": "shipper.cli.status:status",
    "config": "shipper.cli.config:config",
    "inspect": "shipper.cli.inspect:inspect",
    "tail": "shipper.cli.tail:tail",
    "plot": "shipper.cli.plot:plot",
    "audit": "shipper.cli.audit:audit",
    "dead-letter": "shipper.cli.dead_letter:dead_letter",
    "quarantine": "shipper.cli.quarantine:quarantine",
    "replay": "shipper.cli.replay:replay",
    "init-root": "shipper.cli.init_root:init_root",
    "systemd": "shipper.cli.systemd:systemd",
    "hook": "shipper.cli.hook:hook",
    "dev-server": "shipper.cli.dev_server:dev_server",
    "demo": "shipper.cli.demo:demo",
    "docs": "shipper.cli.docs:docs",
}

# What the exit codes mean: those of every command, then what 1 means for those that have it.
EXITS: dict[int, str] = {
    0: "success",
    1: "failure, or work is left. stderr gives the reason. Some commands are listed below",
    2: "invalid arguments or settings. stderr lists all of them",
    3: "the state directory is in use by another service",
    4: "the state directory cannot be used. stderr gives the reason and what to do",
    130: "interrupted with Ctrl-C",
    141: "the output pipe was closed (`| head`)",
}
EXITS_OF: dict[str, str] = {
    "run": "with `--once`: records are still pending, one line for each reason. Without: never",
    "start": "the service has ended at once, or cannot be started",
    "status": "operator action is required, or the spool root does not exist",
    "check": "a check failed, or with `--strict` gave a warning",
    "audit": "an account does not balance, a directory below the root cannot be read, the root does"
    " not exist, or replayed records differ from those on disk",
    "inspect": "a path has a problem or is not a spool",
    "tail": "no spool was found (without `--follow`)",
    "plot": "no such run, or no such metric",
    "dead-letter retry": "a record is kept: rejected again, its receiver fails, or newer"
    " values would be overwritten",
    "replay": "records are left, a source cannot be replayed, or `--run` does not name one run",
    "hook status": "the hook is not active in this environment, or records would be dropped",
    "demo": "records were lost, or a process did not start",
}


def main() -> None:
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # paths, and terminals without UTF-8
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"lens-ship: {sanitize(error.format_message(), None)}", err=True)
        sys.exit(2)
    except ShipperError as error:
        for line in str(error).splitlines():
            click.echo(f"lens-ship: {sanitize(line, None)}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # of a module that is loaded when it is needed, too
        text = sanitize(
            f"{error}. No undelivered record was dropped. Correct this, then try again.", None
        )
        click.echo(f"lens-ship: {text}", err=True)
        sys.exit(1)


def _open_closed_streams() -> None:
    """Put /dev/null in the place of standard streams that are closed (`2>&-`).

    Their numbers would otherwise go to the next file that is opened, and what the interpreter
    prints on a fatal error would end up in that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


class _Registered(Group):
    """Imports a command's file when the command is called or its help is printed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the registry's order, not by name."""
        return list(REGISTRY)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import it; None when there is no such command."""
        if cmd_name not in REGISTRY:
            return None
        module, _, attribute = REGISTRY[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    @quiet_on_closed_pipe
    def invoke(self, ctx: click.Context) -> object:
        return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a similar command for one that does not exist."""
        word = args[0]
        if word in REGISTRY or word.startswith("-"):
            return super().resolve_command(ctx, args)
        similar = difflib.get_close_matches(word, REGISTRY, n=1)
        hint = f" Did you mean {similar[0]!r}?" if similar else ""
        raise click.UsageError(f"No such command {word!r}.{hint}", ctx)


@click.command(
    cls=_Registered,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(spooler.__version__, "-V", "--version", prog_name="lens-ship")
def cli() -> None:
    """Deliver the telemetry of ML training from the spools of this node to its receivers."""
