"""``python -m dropreg``."""

import sys

from .cli import main

sys.exit(main())
