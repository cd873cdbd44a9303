"""What requests to be forgotten tell, and what those do that are made to do harm."""
