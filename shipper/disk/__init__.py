"""The spool root as the service sees it: what is there, what may go, what is set aside."""
