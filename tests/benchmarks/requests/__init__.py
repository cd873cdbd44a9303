"""What requests to be forgotten reveal, and what malicious ones do."""
