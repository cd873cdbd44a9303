"""`fedquit plan`: what a request will cost, estimated before it is served."""
