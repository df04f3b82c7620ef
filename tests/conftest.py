"""What holds for all tests: MLflow reports nothing, though some import it before the project."""

from __future__ import annotations

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
