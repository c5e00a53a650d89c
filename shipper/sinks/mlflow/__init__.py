"""Runs, metrics, params and tags at an MLflow tracking server. See `shipper.sinks.mlflow.sink`."""
