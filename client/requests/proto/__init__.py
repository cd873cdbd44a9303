"""The interface of the forget service; `make proto` makes the stubs."""
