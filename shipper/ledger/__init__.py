"""What the service knows of every spool and sink, in its own database."""
