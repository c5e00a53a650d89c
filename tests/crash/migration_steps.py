"""A migration of the state database, killed with SIGKILL before its Nth line, for every N.

Usage: python migration_steps.py WORK DATABASE

For N = 1, 2, 3 … a child opens a copy of DATABASE and is killed before the Nth line that is run in
`shipper.ledger.state`, until one gets to its end unharmed. A line of JSON names each folder.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from shipper.ledger import state
from shipper.ledger.ledger import Ledger


def open_and_die(folder: Path, fatal: int) -> None:
    """Open the ledger; die before the `fatal`th line of its module."""
    left = fatal

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename != state.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    Ledger(folder).close()
    sys.settrace(None)


def main() -> None:
    """One folder and one child for each line."""
    work, database = Path(sys.argv[1]), Path(sys.argv[2])
    for number in itertools.count(1):
        folder = work / str(number)
        folder.mkdir()
        shutil.copy(database, folder / database.name)
        pid = os.fork()
        if pid == 0:
            open_and_die(folder, number)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        print(json.dumps({"folder": str(folder), "killed": killed}), flush=True)
        if not killed:
            break


if __name__ == "__main__":
    main()
