"""What came out of a command: shown in words and tables, and recorded."""
