"""`python -m evaluation.comparison`."""

import sys

from evaluation.comparison.command_line import main

if __name__ == "__main__":
    sys.exit(main())
