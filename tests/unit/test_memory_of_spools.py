"""A service keeps little of each spool: a node may have thousands."""

from __future__ import annotations

import gc
import tracemalloc
from contextlib import closing
from pathlib import Path

from shipper.app import App
from tests.kit import spools
from tests.kit.shipping import config, spool, step

FEW, MORE = 20, 60
MOST_BYTES = 15_000  # 8,100 spools below a quarter of the memory of the unit


def test_a_spool_takes_little_memory(tmp_path: Path) -> None:
    settings = config(tmp_path, processor_url="http://127.0.0.1:9/v1")
    with closing(App(settings, once=False, changed=lambda: None)) as app:

        def find(first: int, last: int) -> None:
            for number in range(first, last):
                who = spools.identity(spools.spool_id(number), workload_uid=f"w{number % 5}")
                spool(settings.spool / f"rank_{number}", [step(1)], who=who)
            app.scanner.request_scan()
            app.scanner.scan_if_due()
            assert len(app.spools) == last
            app.poller.poll()
            app.clean()
            gc.collect()

        find(0, FEW)
        tracemalloc.start()
        find(FEW, FEW + MORE)
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert size / MORE < MOST_BYTES
