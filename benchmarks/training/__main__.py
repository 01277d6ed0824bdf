"""See `benchmarks.training`."""

import sys

from benchmarks.training import main

sys.exit(main(sys.argv[1:]))
