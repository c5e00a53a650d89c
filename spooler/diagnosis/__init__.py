"""Diagnosis in the training process: what is collected when, and what to do about a failure."""
