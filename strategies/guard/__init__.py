"""What guards the global model: checks of replies, of the steps that forget, and what becomes of a model."""
