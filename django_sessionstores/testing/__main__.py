"""Hold session backends to the promises of a session, from the command line."""

import sys

from .cases.command import main

if __name__ == "__main__":
    sys.exit(main())
