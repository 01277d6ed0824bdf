"""`python -m benchmarks.scale [--write] [PART…]`."""

import sys

from benchmarks.scale import main

sys.exit(main(sys.argv[1:]))
