"""From a spool to a sink, and which spool is next."""
