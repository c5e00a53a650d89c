"""The command's own part: from options to a plan, from a plan to lines and a progress bar."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shipper.config.schema import Config
from shipper.errors import ConfigError
from shipper.ledger.ledger import Ledger
from shipper.replay.plan import Part, ReplayRequest, make_plan
from shipper.replay.selection import Selection, kind_for
from shipper.replay.send import ReplayContext, carry_out
from shipper.replay.show import print_plan, print_receipts, progress_bar
from shipper.sinks import REGISTRY, build_sinks
from shipper.sinks.processor.client import build_client
from shipper.sinks.processor.workloads import Workloads

_SELECTING = ("run", "workload", "first_step", "last_step", "since", "until")
# What of the options is no setting.
WISHING = ("only_sink", "kind", "again", "overwrite", "as_workload", "as_pod", *_SELECTING)


def replay_command(
    paths: tuple[Path, ...],
    given: Mapping[str, Any],
    config: Config,
    *,
    plan_only: bool,
    rate: float | None,
) -> int:
    """Plan, show, send, show; the exit code: 0 done, 1 something was left."""
    ledger = Ledger(config.state, exclusive=False, create=True)
    try:
        parts, problems = make_plan(_wish(paths, given, config), ledger)
        sending = [part for part in parts if part.to_send or part.unfinished]
        lost = _without_address(sending, config)
        print_plan(parts, problems, config.processor_url, lost)
        if plan_only or not sending:
            return 1 if problems else 0
        if lost:
            why = "nobody has recorded where it is to be sent: give --processor-url"
            raise ConfigError([f"{spool}: {why}" for spool in lost])
        receipts = _send(sending, ledger, config, rate)
        print_receipts(receipts)
        if len(receipts) < len(sending):
            return 1
        sys.stdout.flush()  # it has ended once this was told
        ledger.end_replays(receipts)
        return 1 if problems else 0
    finally:
        ledger.close()


def _wish(paths: tuple[Path, ...], given: Mapping[str, Any], config: Config) -> ReplayRequest:
    sinks = (given["only_sink"],) if given["only_sink"] else tuple(REGISTRY)
    if not given["only_sink"] and given["kind"] != "report":
        # Reports are old by then, and doubled ones do harm: a master is told again by wish only.
        sinks = tuple(sink for sink in sinks if kind_for(sink) != "report")
    return ReplayRequest(
        root=config.spool if "spool" in config.given else None,
        pod_directories=config.pod_directories,
        paths=paths,
        selection=Selection(kind=given["kind"] or "", **{name: given[name] for name in _SELECTING}),
        sinks=tuple(sink for sink in sinks if sink in REGISTRY),
        again=given["again"],
        overwrite=given["overwrite"],
        workload_uid=given["as_workload"],
        pod_name=given["as_pod"],
    )


def _without_address(parts: Sequence[Part], config: Config) -> list[str]:
    """Spools that would wait for ever: neither the settings nor their job name a processor."""
    to_processor = [part for part in parts if kind_for(part.sink) != "report"]
    if config.processor_url:
        return []
    return sorted({one.spool for one in to_processor if not one.source.identity.api_base_url})


def _send(parts: Sequence[Part], ledger: Ledger, config: Config, rate: float | None) -> Any:
    address = build_client(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    means = ReplayContext(
        ledger=ledger,
        config=config,
        sinks=build_sinks(config, address),
        workloads=Workloads(address, ledger, time.monotonic),
        now=time.monotonic,
        stop=stop,
        rate=rate,
    )
    with progress_bar(sum(part.to_send for part in parts)) as advance:
        return carry_out(parts, means, lambda _part, records: advance(records))
