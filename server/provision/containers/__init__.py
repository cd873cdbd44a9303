"""A server and its devices in containers: the images, a compose file, a Helm chart."""
