"""What the results mean: benchmarks, statistics, plots."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before the first import of mlflow
# A bar for each small file, in pipes, too.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
