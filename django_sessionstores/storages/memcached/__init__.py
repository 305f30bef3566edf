"""Sessions in memcached, without the methods of Django's cache."""
