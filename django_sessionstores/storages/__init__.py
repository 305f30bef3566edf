"""Where sessions live. `base` holds the contract, every other module one storage."""
