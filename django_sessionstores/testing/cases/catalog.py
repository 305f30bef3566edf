"""All cases, in the order in which they are run. Import this after ``django.setup()``."""

from . import (  # noqa: F401 - they add their cases
    keys,
    storage,
)
from .case import CASES

__all__ = ["CASES"]
