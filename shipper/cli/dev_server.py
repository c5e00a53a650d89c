"""`lens-ship dev-server`: a telemetry-processor to try lens-ship with."""

from __future__ import annotations

import signal
import tempfile
import threading
from contextlib import nullcontext
from pathlib import Path

import click

from shipper.cli.options import NamedPath


@click.command("dev-server")
@click.option("--listen", default="127.0.0.1:8989", show_default=True, help="HOST:PORT.")
@click.option(
    "--data",
    type=NamedPath(dir_okay=False, path_type=Path),
    help="SQLite file for what is received.  [default: a temporary one, deleted at the end]",
)
@click.option("--prefix", default="/v1", show_default=True, help="Path prefix of all routes.")
def dev_server(listen: str, data: Path | None, prefix: str) -> None:
    """Run a small local telemetry-processor to try lens-ship with. Not for production."""
    from shipper.config.parse import host_and_port
    from shipper.dev_server.server import DevServer
    from shipper.log import start

    start("info")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    temporary = tempfile.TemporaryDirectory(prefix="lens-ship-") if data is None else None
    with temporary or nullcontext("") as folder:
        place = data or Path(folder, "telemetry.sqlite")
        try:
            host, port = host_and_port(listen)
            server = DevServer(place, host, port, prefix)
        except (OSError, ValueError) as error:
            raise click.BadParameter(f"{listen}: {error}", param_hint="--listen") from error
        click.echo(f"Listening on {server.url}. Received data is stored in {place}.", err=True)
        click.echo(f"Counts: {server.start_page}  Stop: Ctrl-C", err=True)
        stop.wait()
        server.close()
