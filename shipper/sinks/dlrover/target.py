"""Which master a job has, and how its address is written. Pure."""

from __future__ import annotations

from shipper.config import parse
from shipper.config.schema import Config
from shipper.errors import Unreachable
from spooler.spool.identity import Identity


def master_of(config: Config, identity: Identity) -> tuple[str, str]:
    """Address and kind: the operator's choice, else what the job recorded; "" for none."""
    service = config.dlrover_protocol or identity.master_service
    return config.dlrover_address or identity.master_addr.strip(), service.strip().lower()


def target(address: str) -> str:
    """`HOST:PORT` as transports take it.

    Raises:
        Unreachable: it is no such address.
    """
    try:
        return parse.address(address)
    except ValueError as error:
        raise Unreachable("bad-address", f"{address!r} {error}", sent=False) from error
