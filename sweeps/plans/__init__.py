"""From a command's flags to the trials that it needs."""
