"""What one trial does: its spec, its training loop, its checkpoints and its records."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before the first import of mlflow
