"""The processes of a device: two of Flower that share what they import, and a ClientApp imported before its message."""
