"""What the nodes of a cluster have: functions that run on each of them, and who asks."""
