"""The version of lens-ship."""

__version__ = "0.1.0"
