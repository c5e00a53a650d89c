"""What lens-ship writes into an environment or on a machine: hook, unit files, spool root."""
