"""`python -m trajmatch`, and the program `trajmatch`."""

import sys


def main() -> int:
    """Run the command line; an interrupt while the program is loaded waits for the end of that, and ends it."""
    try:
        # First, and alone: these two are small, and what follows is not.
        from trajmatch.machine.holding import Held
        from trajmatch.machine.interrupts import listening

        with listening(for_good=True):
            with Held():
                from trajmatch.run import cli

            return cli.main()
    except KeyboardInterrupt:
        print("trajmatch: interrupted before anything was done", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
