"""From a command's flags to what is to be done, checked before anything is spent."""
