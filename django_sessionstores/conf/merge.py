"""The merge functions: those that the project sets, and that of the package."""

from __future__ import annotations

from collections.abc import Mapping

from django.utils.module_loading import import_string

from ..binding.bindings import BINDING, merge_bindings
from ..payloads.merge import MergeFunction
from .options import settings
from .resets import cached_until_change


@cached_until_change()
def merge_functions() -> Mapping[str, MergeFunction]:
    """Return the functions by session key, imported. Raises ``ImportError``."""
    functions = {
        key: import_string(function) if isinstance(function, str) else function
        for key, function in settings.MERGE.items()
    }
    return {**functions, BINDING: merge_bindings}
