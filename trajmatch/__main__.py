"""`python -m trajmatch`, and the program `trajmatch`."""

import sys


def main() -> int:
    """Run the command line; an interrupt that comes before it listens is no traceback either."""
    try:
        from trajmatch.run import cli

        return cli.main()
    except KeyboardInterrupt:
        print("trajmatch: interrupted before anything was done", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
