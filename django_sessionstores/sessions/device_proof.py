"""The proof of a device: what a session that is bound to a device needs in order to be read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..binding.bindings import BINDING, binding_of
from ..binding.tokens import is_bound_value
from ..conf import key_ring
from ..core import clock
from .state import RequestPolicy


def is_missing(policy: RequestPolicy, data: Mapping[str, Any]) -> bool:
    """Return whether the session with this data is bound to a device, and its proof is missing.

    The proof is the bound cookie, which is verified without asking a store. Nothing is missing if
    the settings do not ask for it.
    """
    if policy.bound_cookie is None or BINDING not in data:
        return False
    binding, moment = binding_of(data), clock.now()
    if binding is None or moment < binding.enforced:
        return False
    return not is_bound_value(key_ring(), policy.bound_cookie, binding.id, moment)
