"""What runs at the operator's: the ServerApp, its loop and its checkpoints."""
