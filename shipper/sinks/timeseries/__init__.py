"""What the sinks of receivers of time series have in common: series, outcomes, the sending."""
