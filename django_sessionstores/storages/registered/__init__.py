"""A registry beside a storage: a list of sessions for a storage that cannot list or end them."""

from .storage import RegisteredStorage

__all__ = ["RegisteredStorage"]
