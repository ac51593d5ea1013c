"""`python -m cli`: the command `search-agent` where the project is not installed."""

import sys

from cli.main import main

sys.exit(main())
