"""Replay: resends records that are on disk, or sends them for the first time (`lens-ship replay`).

A replay uses the pipelines, sinks and ledger of the service and reads a closed range of records
instead of a growing spool. Its positions have entries of their own in the ledger: it resumes after
a kill and never moves the position of the service.

- Of a spool below the root of the service, and of its copies, delivered records are sent only with
  `resend_delivered`. Pending records are left to the service, dead letters to `dead-letter retry`
  unless the spool names no workload and the request does.
- A file of another tool (`shipper.importers`) has a position of its own, and so has a spool for a
  sink that the service does not run. Delivered records are not sent again without
  `resend_delivered`. Rejected records are. A selection has a position of its own, too: that of the
  source says that everything before it is delivered.
- To a receiver that keeps one value of a step (`shipper.sinks.Overwrites`), steps that a later
  process of the same workload has written since are left out without `overwrite_newer`.
"""
