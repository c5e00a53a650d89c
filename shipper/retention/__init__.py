"""What may be deleted, when, and what is set aside instead."""
