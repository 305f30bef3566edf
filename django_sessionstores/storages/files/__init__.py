"""Sessions in files, with an index of users."""
