"""Signs of life: to systemd, to probes, to whoever asks beside the service."""
