import sys

from trainer.formats.command_line import main

sys.exit(main())
