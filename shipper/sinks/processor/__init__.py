"""The telemetry-processor: its two sinks, its address, and what is sent to it."""
