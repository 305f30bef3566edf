"""Payloads: the encrypted bytes that storages keep, made from session data."""
