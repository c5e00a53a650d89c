"""Stands for torchtitan, of which only the import counts here."""
