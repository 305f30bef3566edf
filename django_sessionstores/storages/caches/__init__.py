"""Sessions in the caches of ``CACHES``; `selection` chooses the storage."""
