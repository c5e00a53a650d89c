"""A service on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shipper.config.schema import Config
from shipper.service import Service


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
