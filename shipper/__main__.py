"""Entry point of `lens-ship`. Without the libraries of the service it says what to install."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec

# Imported by the commands, and not by the training side. gRPC is loaded only for a gRPC master.
_LIBRARIES = (
    *("click", "orjson", "prometheus_client", "requests", "rich"),
    *("sqlite_utils", "tenacity", "watchdog"),
    *(("tomli",) if sys.version_info < (3, 11) else ()),
)


def main() -> None:
    if sys.argv[1:2] == ["run"] and "--once" not in sys.argv:
        # The service awaits them. Until then one would kill it, or be lost as process 1 of a pod.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if not all(find_spec(name) for name in _LIBRARIES):
        if sys.argv[1:2] == ["docs"]:
            sys.exit(_print_page(*sys.argv[2:3]))
        problem = (
            "lens-ship: only the training side and `lens-ship docs` are installed here;"
            " for the service run: pip install 'lens-ship[service]'"
        )
        if sys.argv[1:2] == ["exec"] and "--" in sys.argv[:-1]:
            sys.stderr.write(
                f"{problem}\nlens-ship: the job runs, and nothing of it is delivered\n"
            )
            command = sys.argv[sys.argv.index("--") + 1 :]
            os.execvp(command[0], command)
        sys.exit(problem)
    from shipper import cli

    cli.main()


def _print_page(topic: str = "") -> int:
    """As the command does where stdout is not a terminal."""
    from shipper.docs import overview, page
    from shipper.errors import ShipperError

    try:
        sys.stdout.write(f"{page(topic) if topic else overview()}\n")
    except ShipperError as error:
        sys.stderr.write(f"lens-ship: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    main()
