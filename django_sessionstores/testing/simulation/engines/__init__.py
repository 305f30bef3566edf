"""The session backends of the simulated site, one per module, which settings name."""
