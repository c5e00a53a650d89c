"""One spool to one sink, and who has a turn when."""
