"""How many reports a second go through the whole sink to DLRover's real master, one a call.

From records in a spool to rows in the master's memory: read, checked, looked at, sent, noted in the
ledger. `LENS_SHIP_TEST_MASTER` names the interpreter that has DLRover; see `make test-master`.

    python bench/master_rate.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from shipper.service import ship_once
from tests.kit import master as kit
from tests.kit import spools
from tests.kit.master import report
from tests.kit.shipping import config, goodbye, spool

SIZES = {"200 B": (200, 3000), "4 KiB": (4096, 2000), "64 KiB": (65536, 800), "1 MiB": (2**20, 60)}
KINDS = ("TRAINING_LOG", "XPU_TIMER_METRIC")


def rate(service: str, data_type: str, size: int, count: int) -> float:
    """Reports a second, the service's start not counted."""
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        root = Path(folder)
        with kit.running(root / "master", service) as master:
            who = spools.identity(master_addr=master.address, master_service=service)
            text = ("x" * 99 + "\n") * (size // 100 + 1)
            records = [report(n, data_type, data_content=text[:size]) for n in range(count)]
            spool(root / "spool", [*records, goodbye()], who=who)
            begun = time.monotonic()
            left = ship_once(config(root), timeout=120)
            seconds = time.monotonic() - begun
            if left or len(master.stored()) != count:
                raise SystemExit(f"not everything arrived: {left}")
        return count / seconds


def main() -> None:
    """Print the table."""
    if not kit.PYTHON.exists():
        raise SystemExit(f"no real master: {kit.PYTHON} is not there; {kit.VARIABLE} names another")
    print(f"{'content':>8} {'kind':>17} {'gRPC':>8} {'HTTP':>8}   reports a second")
    for name, (size, count) in SIZES.items():
        for data_type in KINDS:
            told = [rate(service, data_type, size, count) for service in ("grpc", "http")]
            print(f"{name:>8} {data_type:>17} {told[0]:8.0f} {told[1]:8.0f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
