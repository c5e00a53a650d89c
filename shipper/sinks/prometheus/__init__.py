"""Receivers of Prometheus remote write."""
