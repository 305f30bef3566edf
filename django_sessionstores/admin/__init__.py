"""The session pages of Django's admin, which list the sessions of the engine in use and end them.

Django's autodiscovery imports this package, which registers `SessionAdmin`. `model_admin` has its
permissions and addresses. The pages are in `list_page`, with its `search`, `filters` and `listing`;
`detail_page`; `overview_page`; and `end_pages`, which ask for confirmation, with `ending`, which
ends sessions. `actions` has the menu above the list, and `export` the list as a file.
They share the class `page.Page`. `session_row` describes a session for all of them, and
`log_entries` writes to the admin's history.

The pages ask `Inventory` and not a model, so they are the same for every engine. They show ids of
sessions, never keys. A GET changes nothing.
"""

from .model_admin import SessionAdmin

__all__ = ["SessionAdmin"]
