"""Sessions in Redis, its index and its connections."""
