"""`python -m studio`."""

import sys

from studio.command_line import main

if __name__ == "__main__":
    sys.exit(main())
