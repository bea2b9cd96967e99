"""Experiment tracking with MLflow, which reads these two variables when it is imported."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# It would print the address of each run that ends, with the password that may be in it.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
