"""The storages of sessions. `base` has their contract."""
