"""What the results mean: benchmarks, statistics, plots."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before the first import of mlflow
