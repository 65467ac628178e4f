"""`python -m artifact`."""

import sys

from artifact.command_line import main

if __name__ == "__main__":
    sys.exit(main())
