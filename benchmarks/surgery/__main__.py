"""See `benchmarks.surgery`."""

import sys

from benchmarks.parts import main
from benchmarks.surgery import PAGE, PARTS

sys.exit(main("benchmarks.surgery", PARTS, PAGE, sys.argv[1:]))
