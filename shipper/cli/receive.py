"""`lens-ship receive`: a telemetry-processor to try things out."""

from __future__ import annotations

from pathlib import Path

import click

from shipper.cli.options import start_logging


@click.command()
@click.option("--listen", default="127.0.0.1:8989", show_default=True, help="HOST:PORT.")
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("telemetry.sqlite"),
    show_default=True,
    help="SQLite file that keeps what is received.",
)
@click.option("--prefix", default="/v1", show_default=True, help="Where the routes stand.")
def receive(listen: str, data: Path, prefix: str) -> None:
    """Run a small local telemetry-processor, to try things out. Not for production."""
    from shipper.receiver.errors import CannotListen, StoreFailed
    from shipper.receiver.server import serve

    host, _, port = listen.rpartition(":")
    if not port.isdecimal():
        raise click.BadParameter(f"{listen!r} is not HOST:PORT", param_hint="--listen")
    start_logging("info")
    try:
        serve(host or "127.0.0.1", int(port), data, prefix)
    except CannotListen as error:
        raise click.BadParameter(str(error), param_hint="--listen") from error
    except StoreFailed as error:
        raise click.BadParameter(str(error), param_hint="--data") from error
