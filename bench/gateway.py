"""What a node sends over OTLP, and how many such nodes a gateway takes with one core.

    python bench/gateway.py [--ranks 8] [--rate 1] [--metrics 60] [--seconds 20]
    python bench/gateway.py --gateway http://127.0.0.1:4318 --pid PID      # a running Collector

Writers of so many ranks log steps at that rate, a real `lens-ship run` sends them to a receiver
that counts. Then the same requests go to a gateway as fast as it takes them, whose processor time
is read: rotel, or the process PID that is given. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import gzip
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import scale
import thin_receiver

from spooler.records import step
from spooler.spool import codec
from tests.kit.engines import ROTEL, Rotel

_SETTLE_SECONDS = 8.0  # until all ranks are in step
_CONNECTIONS = 8
_LINES = 'type = "{type}"\nurl = "{url}"\n'


@dataclass(kw_only=True)
class Sent:
    """What a node has sent while `begun`; the receiver's threads fill it."""

    begun: bool = False
    requests: list[tuple[str, bytes]] = field(default_factory=list)  # path, body
    bytes: int = 0

    def note(self, head: bytes, body: bytes) -> None:
        if self.begun:
            self.requests.append((head.split(b" ", 2)[1].decode(), body))
            self.bytes += len(head) + len(body)


def node(work: Path, given: argparse.Namespace, kind: str, path: str) -> tuple[Sent, float]:
    """What a node sends by such a sink in `--seconds`, and the service's share of a core."""
    sent = Sent()
    url = thin_receiver.serve(sent.note).removesuffix("/v1")
    root = work / kind
    writers = [scale.writer_of(root, rank, "aaaa", workload="job") for rank in range(given.ranks)]
    (work / f"{kind}.toml").write_text(f"[sinks.one]\n{_LINES.format(type=kind, url=url + path)}")
    service = scale.Service(root, work / f"state-{kind}", config=work / f"{kind}.toml")
    index, end = 0, time.monotonic() + _SETTLE_SECONDS + given.seconds
    cpu = 0.0
    try:
        while (now := time.monotonic()) < end:
            if not sent.begun and now >= end - given.seconds:
                sent.begun, cpu = True, service.cpu()
            log(writers, index, given.metrics)
            index += 1
            time.sleep(1 / given.rate)
        sent.begun = False
        return sent, (service.cpu() - cpu) / given.seconds
    finally:
        service.end()


def log(writers: list[Any], index: int, metrics: int) -> None:
    """A step of each rank."""
    data = {f"train/metric_{number}": (0.5 + number) / (index + 1) for number in range(metrics)}
    for writer in writers:
        body = step.encode(run="r", step=index, time=time.time(), closed=True, data=data)
        writer.append(step.NAME, codec.pack(body))
        writer.maintain()


@contextmanager
def gateway(work: Path, given: argparse.Namespace) -> Iterator[tuple[str, str, int]]:
    """Name, URL and pid of the gateway."""
    if given.gateway:
        yield "gateway", given.gateway, given.pid
        return
    target = thin_receiver.serve().removesuffix("/v1")
    rotel = Rotel(folder=work / "rotel", target=target)
    rotel.start()
    assert rotel.process is not None
    try:
        yield "rotel", rotel.url, rotel.process.pid
    finally:
        rotel.kill()


def share(url: str, pid: int, requests: list[tuple[str, bytes]], seconds: float) -> float:
    """The gateway's processor time for a request, in seconds."""
    counts, end = [0] * _CONNECTIONS, time.monotonic() + seconds
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}

    def send(number: int) -> None:
        connection = HTTPConnection(str(urlsplit(url).netloc))
        for path, body in islice(cycle(requests), number, None):
            if time.monotonic() > end:
                break
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answer.read()
            counts[number] += answer.status == 200
        connection.close()

    cpu = scale.cpu_of(pid)
    threads = [threading.Thread(target=send, args=(number,)) for number in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(2)  # what it has queued
    return (scale.cpu_of(pid) - cpu) / max(1, sum(counts))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.0, help="steps a second of each rank")
    parser.add_argument("--metrics", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--gateway", default="", help="URL of one that runs")
    parser.add_argument("--pid", type=int, default=0, help="its process")
    given = parser.parse_args()
    points = given.ranks * given.rate * (given.metrics + 1)
    print(
        f"a node: {given.ranks} ranks, {given.rate:g} steps/s each, {given.metrics} metrics:"
        f" {points:,.0f} points/s with the steps"
    )
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        work = Path(folder)
        for kind, path in (("otlp", ""), ("prometheus", "/api/v1/write")):
            sent, cpu = node(work, given, kind, path)
            rate, size = len(sent.requests) / given.seconds, sent.bytes / given.seconds
            print(
                f"  {kind:<11} {rate:6.1f} requests/s {size / 1000:8.1f} kB/s"
                f" {size / points:6.1f} bytes a point, service {100 * cpu:.1f} % of a core"
            )
            if kind == "otlp":
                requests, each = sent.requests, rate
                queued = sum(len(gzip.decompress(body)) for _, body in requests) / given.seconds
                print(f"  in the queue of a Collector: {queued * 3.6e-3:,.0f} MB an hour")
        if not given.gateway and not ROTEL.exists():
            print("rotel is not installed (make unit): no gateway is measured")
            return
        with gateway(work, given) as (name, url, pid):
            took = share(url, pid, requests, given.seconds)
    print(
        f"  {name}: {took * 1e6:.0f} µs of processor time a request:"
        f" {1 / (took * each):,.0f} nodes, {points / (took * each):,.0f} points/s of one core"
    )
    os._exit(0)  # the receivers' threads wait for requests


if __name__ == "__main__":
    main()
