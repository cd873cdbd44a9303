"""The forget service: takes asks over gRPC with TLS, says how far requests are, hands out receipts."""
