"""Hold session backends to the promises of a session, from the command line."""

from .cases.command import run

if __name__ == "__main__":
    run()
