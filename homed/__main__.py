"""`python -m homed`."""

import sys

from homed.cli import main

sys.exit(main())
