"""Models in fewer bytes: codecs, and a device's side of them."""
