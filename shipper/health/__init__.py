"""Whether the service runs: heartbeat, liveness, and messages to systemd."""
