"""Who holds which samples: data sets, their split among clients, and what a request is about."""
