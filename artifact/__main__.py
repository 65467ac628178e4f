import sys

from artifact.command_line import main

sys.exit(main())
