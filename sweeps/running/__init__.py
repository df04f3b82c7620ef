"""Plans are carried out here: trials, evaluations, promotions."""
