"""The service of lens-ship: reads the spools of its node and delivers them, in order, for good."""
