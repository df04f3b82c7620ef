"""What holds for all tests: MLflow reports nothing, though some import it before the project; and
Triton's kernels run in its interpreter, unless `make test-gpu` says otherwise."""

from __future__ import annotations

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton
