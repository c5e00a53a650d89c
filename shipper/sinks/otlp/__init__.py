"""Receivers of OTLP over HTTP: Collectors, and the back ends that take it themselves."""
