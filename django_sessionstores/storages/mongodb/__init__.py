"""Sessions in MongoDB, through pymongo."""
