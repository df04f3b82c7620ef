"""Running a plan to its end: trials, evaluations, promotions."""
