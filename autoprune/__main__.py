"""`python -m autoprune`: the command line without its script, e.g. under a launcher that wants a module."""

import sys

from autoprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
