"""``python -m ssvae VERB ...``: everything that is not a run of cells (that is ``run.py``)."""

import sys

from ssvae.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
