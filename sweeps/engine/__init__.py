"""Ray: the cluster, what runs a trial on it, and what is seen meanwhile."""
