"""Run a grid of cells: ``python run.py -m reg=none,lcr,lmr,lcr_lmr channels=48,128``. See README.md."""

import sys

from ssvae.cli.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
