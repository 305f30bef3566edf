"""What a session costs, beside Django's engine and the bare client on the same store.

``uv run python -m tests.benchmark`` runs it; docs/reference/performance.rst says how to read it.
"""
