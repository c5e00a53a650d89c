"""A small local telemetry-processor, behind ``lens-ship receive``: NOT FOR PRODUCTION.

It behaves as the telemetry-processor does (same routes, same strictness about types, same
answers, same rows) with SQLite behind it and a few GETs to look at what arrived, so that a
training run, the spool and the shipper can be run and inspected without a cluster. It has no
authentication, no limits and no backups, and it trades durability for speed.

What it leaves out: the race between two requests that write one step at the same time (here
requests are stored one after another), and free-form values nested deeper than
``decode.DEEPEST`` levels (refused here).
"""

from shipper.receiver.server import Receiver

__all__ = ["Receiver"]
