"""The session engine ``mongodb``: sessions in a collection of MongoDB."""

from ..exceptions import missing_extra
from ..sessions import SessionStore as BaseSessionStore
from . import MONGODB_SETTINGS

try:
    from ..storages.mongodb.storage import MongoDBStorage, from_settings
except ModuleNotFoundError as error:
    if error.name not in {"pymongo", "bson"}:
        raise
    raise missing_extra("pymongo", "mongodb") from error


class SessionStore(BaseSessionStore):
    """A session in the collection that the options ``MONGODB_...`` name."""

    settings_used = MONGODB_SETTINGS

    @classmethod
    def make_storage(cls) -> MongoDBStorage:
        return from_settings()
