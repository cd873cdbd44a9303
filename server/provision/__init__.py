"""Making a federation ready: certificates, keys, a kit for each device, and the files that a deployment needs."""
