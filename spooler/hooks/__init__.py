"""Hooks on experiment trackers: what a tracker's users log is recorded without a change of code."""
