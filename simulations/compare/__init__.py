"""Methods of forgetting compared: same split and start, same requests, equal budgets, several seeds."""
