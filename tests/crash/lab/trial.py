"""One trial in this process: python -m tests.crash.lab.trial ATTACK SEED WORK."""

from __future__ import annotations

import faulthandler
import sys
from pathlib import Path

from tests.crash.lab.attacks import load


def main() -> None:
    """Run it; the verdict is the last line of stdout."""
    faulthandler.enable()  # a trial that hangs is asked where, by a signal
    name, seed, work = sys.argv[1:4]
    verdict = load(name).trial(int(seed), Path(work))
    sys.stdout.flush()
    print(verdict.to_json(), flush=True)


if __name__ == "__main__":
    main()
