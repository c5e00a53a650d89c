"""Sends again, or for the first time, what lies on disk: `lens-ship replay`.

Replay is the ordinary way out with another source: the same `Route`, sinks and ledger, fed from a
closed range of records instead of a live tail. Its positions stand in the ledger under names of
their own, so that it resumes after being killed and never moves a live position.

- A spool under the root that the service ships: what is delivered is sent only with
  `resend_delivered`; what is pending is left to the service.
- A file of another tool (`shipper.importers`) has no live position: its own is kept, and what is
  delivered of it is not sent twice without `resend_delivered`.
- Steps that a later process of the same workload has written since are left out unless
  `overwrite_newer` is given: the receiver would put the older values over the newer ones.
"""
