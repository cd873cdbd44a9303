"""A request in a deployment, from asked to done: its turn, its method, its recovery, its end."""
