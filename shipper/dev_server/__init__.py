"""A small telemetry-processor to try lens-ship with. Not for production.

It accepts what a telemetry-processor accepts, keeps it in one SQLite file, and shows it. It has no
authentication, and it is more lenient: it checks only what it needs to store a request.
"""
