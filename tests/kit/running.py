"""A service on a thread of its own, until a fact holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from shipper.config.schema import Config
from shipper.service import Service
from tests.kit.spools import wait_until


@contextmanager
def running(given: Config) -> Iterator[Service]:
    """A service on a thread of its own, which must end by itself and without an error."""
    service, errors = Service(given), list[BaseException]()

    def work() -> None:
        try:
            service.run()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield service
        assert not errors, errors
    finally:
        service.stop()
        thread.join()
    assert not errors, errors


def ship_until(given: Config, holds: Callable[[Service], object]) -> list[str]:
    """Ship what is there until that is done or a fact holds; what is still pending then."""
    service = Service(given, once=True)
    with ThreadPoolExecutor(1) as pool:
        shipping = pool.submit(service.run)
        try:
            wait_until(lambda: shipping.done() or holds(service))
        finally:
            service.stop()
    shipping.result()
    return service.app.pending()


def failing(service: Service) -> str:
    """Why sinks and queues of a service wait before they try again; "" while none does."""
    app = service.app
    states = [*app.states.values(), *(queue.state for queue in list(app.queues.values()))]
    failures = [state.failure for state in states]
    return "\n".join(f"{one.reason}: {one.detail}" for one in failures if one is not None)


def is_told(service: Service, sink: str) -> bool:
    """Whether the receiver of a sink has acknowledged everything that there is for it."""
    queues = [queue for (name, _), queue in list(service.app.queues.items()) if name == sink]
    # A queue that was just made has no spool yet, of which nothing would be left.
    return bool(queues) and all(queue.spools() and queue.caught_up() for queue in queues)
