"""`python -m service`."""

import sys

from service.main import main

if __name__ == "__main__":
    sys.exit(main())
