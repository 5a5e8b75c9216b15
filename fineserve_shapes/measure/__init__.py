"""What happened: outcomes, distributions, and the load delivered beside the load asked for."""
