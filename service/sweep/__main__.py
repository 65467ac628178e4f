"""`python -m service.sweep`."""

import sys

from service.sweep.command_line import main

if __name__ == "__main__":
    sys.exit(main())
