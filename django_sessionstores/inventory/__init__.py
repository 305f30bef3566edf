"""Find the sessions of an engine, and end them, without knowing or showing a session key.

`inventory` has the public class. It uses `listing` and `ending`, which are flows (see `core.flow`),
so that the sync and the async methods cannot differ. `filters` selects the sessions of a list,
`session_info` describes a session, and `arguments` checks the arguments of the caller.
"""

from ..sessions import Total
from .arguments import REQUEST_SECONDS
from .inventory import Inventory
from .session_info import SHORT_ID, SessionInfo, SessionPage

__all__ = ["REQUEST_SECONDS", "SHORT_ID", "Inventory", "SessionInfo", "SessionPage", "Total"]
