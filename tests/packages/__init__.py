"""Other packages' own tests, run on Django's session backends and on this package's.

`suites` says which packages, `environments` makes a place to run each in, `runner` runs them, and
`expected` holds the failures that are known. ``python -m tests.packages`` does it by hand.
"""
