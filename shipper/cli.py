"""The command line: finds the command in the registry and turns errors into exit codes.

Exit codes: 0 done; 1 something is left to do or failed; 2 settings that cannot be used; 3 the state
directory is in use; 4 it cannot be used.
"""

from __future__ import annotations

import difflib
import sys
from importlib import import_module

import click

import spooler
from shipper.commands import REGISTRY
from shipper.commands.options import Group, until_nobody_reads
from shipper.errors import ShipperError


def main() -> None:
    """Entry point of the `lens-ship` command."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"lens-ship: {error.format_message()}", err=True)
        sys.exit(2)
    except ShipperError as error:
        for line in str(error).splitlines():
            click.echo(f"lens-ship: {line}", err=True)
        sys.exit(error.exit_code)


class _Registered(Group):
    """Loads a command's file when the command is called or its help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the registry's order: what an operator needs first stands first."""
        return list(REGISTRY)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name."""
        if cmd_name not in REGISTRY:
            return None
        module, _, attribute = REGISTRY[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    @until_nobody_reads
    def invoke(self, ctx: click.Context) -> object:
        """Run the command; whoever has enough of its output may go."""
        return super().invoke(ctx)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say what was meant by a word that is no command."""
        word = args[0]
        if word in REGISTRY or word.startswith("-"):
            return super().resolve_command(ctx, args)
        meant = difflib.get_close_matches(word, REGISTRY, n=1)
        hint = f" Did you mean {meant[0]!r}?" if meant else ""
        raise click.UsageError(f"No such command {word!r}.{hint}", ctx)


@click.command(
    cls=_Registered,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(spooler.__version__, prog_name="lens-ship")
def cli() -> None:
    """Durable telemetry of ML training: from the spool on this node to its receivers."""
