"""What every stage has in common: units over the cluster, fitness of nodes, metrics and the log."""
