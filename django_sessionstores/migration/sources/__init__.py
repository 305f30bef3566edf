"""The previous backends that sessions are migrated from: Django's own and the package's."""

from .base import Claim, Entry, ForeignSession, PreviousSession, Source
from .cache import CacheSource
from .database import MissingApp
from .own_storage import OwnSource
from .selection import DJANGO_ENGINES, open_source

__all__ = [
    "DJANGO_ENGINES",
    "CacheSource",
    "Claim",
    "Entry",
    "ForeignSession",
    "MissingApp",
    "OwnSource",
    "PreviousSession",
    "Source",
    "open_source",
]
