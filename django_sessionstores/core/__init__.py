"""The foundation of the package: it uses neither the ORM nor requests nor storages."""
