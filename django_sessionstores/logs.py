"""For the ``LOGGING`` setting: a filter that drops what the log of outages says in fewer lines."""

from __future__ import annotations

import logging

from .exceptions import StorageUnavailable


class IgnoreOutages(logging.Filter):
    """A filter for the logger ``django.request``: drop outages that the log has counted.

    Django logs each request that fails with an exception, with a traceback.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to keep a record."""
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, StorageUnavailable) and error.was_logged)
