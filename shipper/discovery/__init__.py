"""Which spools there are below the root, and which of them have changed."""
