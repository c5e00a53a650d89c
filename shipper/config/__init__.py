"""Settings of the service: the table of them, where values come from, and how each is read."""
