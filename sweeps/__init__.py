"""The commands a person runs."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before the first import of mlflow
