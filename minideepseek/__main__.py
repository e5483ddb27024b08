"""`python -m minideepseek` is the command line."""

import sys

from minideepseek.cli import main

sys.exit(main())
