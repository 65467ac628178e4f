"""`python -m job.report`."""

import sys

from job.report.command_line import main

if __name__ == "__main__":
    sys.exit(main())
