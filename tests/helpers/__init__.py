"""Networks, plans, data and folders that several tests use."""
