"""What a failed TLS handshake means."""
