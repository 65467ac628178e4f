"""`python -m preprocess`."""

import sys

from preprocess.command_line import main

sys.exit(main())
