"""See `benchmarks.training`."""

import sys

from benchmarks.parts import main
from benchmarks.training import PAGE, PARTS

sys.exit(main("benchmarks.training", PARTS, PAGE, sys.argv[1:]))
