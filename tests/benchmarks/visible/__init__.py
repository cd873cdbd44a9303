"""Where forgetting can be seen: every method beside retraining, and the hypotheses behind FedQUIT's `lr = auto`."""
