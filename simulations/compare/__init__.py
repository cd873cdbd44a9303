"""Methods of forgetting beside each other: same split and start, same requests, equal budgets, several seeds."""
