"""Entry point of `lens-ship`. Without the libraries of the service it says what to install."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

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
        if sys.argv[1:2] in (["docs"], ["hook"]):
            _run_without(sys.argv[1:])
        problem = (
            "lens-ship: only the training side is installed here, with the commands `docs` and"
            " `hook`. For the others: pip install 'lens-ship[service]'"
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


def _run_without(words: list[str]) -> None:
    """Run a command that needs no library, as it does where stdout is not a terminal, and exit."""
    from shipper import docs
    from shipper.errors import ShipperError
    from shipper.install import pth

    active = True
    try:
        match words:
            case ["docs"]:
                text = docs.overview()
            case ["docs", topic]:
                text = docs.page(topic)
            case ["hook", "status"]:
                lines, active = pth.report(os.environ)
                text = "\n".join(lines)
            case ["hook", "install"]:
                text = pth.install()
            case ["hook", "uninstall"]:
                text = pth.uninstall()
            case ["hook", "export", folder]:
                text = pth.export(Path(folder).absolute())
            case _:
                return
    except ShipperError as error:
        sys.stderr.write(f"lens-ship: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(f"{text}\n")
    sys.exit(0 if active else 1)


if __name__ == "__main__":
    main()
