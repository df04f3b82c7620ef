"""What the trials of a command said, in words, tables and MLflow."""
