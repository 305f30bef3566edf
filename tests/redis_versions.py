"""What depends on the version of the client of Redis."""

import pytest
import redis

repeats = pytest.mark.skipif(
    redis.VERSION[0] < 6, reason="Version 5 of redis tries a server that hangs once."
)
"""Marks a test of clients that try a server that hangs again and again."""
