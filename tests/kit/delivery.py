"""What arrived, told from the embedded receiver's own tables, and the oracle over it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shipper.config.load import Config, load
from tests.kit.processor import queries
from tests.kit.processor.store import Store

METADATA = frozenset({"source", "run_id", "step", "created_at", "updated_at", "history"})


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """One workload at the receiver: step -> metrics, steps in order of their arrival, repeats."""

    steps: Mapping[int, Mapping[str, Any]]
    order: list[int]
    repeated: Mapping[str, int] = field(default_factory=dict)  # records header -> times above one


def arrived(store: Store, workload: str) -> Arrived:
    """Read what the receiver holds of `workload`."""
    rows = queries.rows(store, workload)
    steps = {
        row["iteration"]: {
            name: value for name, value in row["performance"].items() if name not in METADATA
        }
        for row in rows
    }
    requests = [
        request
        for request in queries.requests(store)
        if request["workload_uid"] == workload and request["status"] == 200
    ]
    order = [
        step
        for request in requests
        if request["first_step"] is not None
        for step in range(request["first_step"], request["last_step"] + 1)
    ]
    times = Counter(request["lens_ship_records"] for request in requests)
    return Arrived(
        steps=steps,
        order=order,
        repeated={header: count - 1 for header, count in times.items() if count > 1},
    )


def settings(spool: Path, state: Path, url: str, **more: Any) -> Config:
    """A configuration as the command line would give it."""
    return load(
        {
            "spool": spool,
            "state": state,
            "processor_url": url,
            "http_listen": "off",
            **more,
        },
        {},
    )


def is_ordered(order: list[int]) -> bool:
    """Whether no step arrived after a later one."""
    return all(earlier <= later for earlier, later in itertools.pairwise(order))
