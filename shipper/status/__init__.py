"""What is delivered, what waits and why: for `lens-ship status`, the page and the metrics."""
