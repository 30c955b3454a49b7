"""`python -m trajmatch`."""

import sys

from trajmatch.run.cli import main

if __name__ == "__main__":
    sys.exit(main())
