"""`python -m reborn` is the command `reborn`."""

import sys

from reborn._command.cli import main

if __name__ == "__main__":
    sys.exit(main())
