"""The commands a person runs."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before the first import of mlflow


def start(main: Callable[[], int]) -> NoReturn:
    """Run a command as a script, whose imports take seconds in which it may be interrupted."""
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
