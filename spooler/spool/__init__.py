"""The spool room: the only part that knows the disk. `format.py` is the place to start."""
