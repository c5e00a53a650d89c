"""What lens-ship puts into a Python environment or a machine: the hook, the units."""
