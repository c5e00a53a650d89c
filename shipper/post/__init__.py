"""The way to a telemetry-processor over HTTP: address, credentials, waiting."""
