"""A site under gunicorn and uvicorn with visitors on it, while its stores fail.

``project/deployed_site.py`` is the site, `setups` what it can be made of, `sites` starts it,
`browsers` and `load` visit it and count what went wrong, and `faults` breaks its stores. The tests
of faults run with ``-m deployments`` only. ``python -m tests.deployments`` measures instead.
"""
