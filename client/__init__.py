"""What runs on a device: the ClientApp, models, data and local training."""
