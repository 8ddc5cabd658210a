"""A GPU made of threads and sleep, for machines without one; it always says that it is simulated."""
