"""Searches keys of a recipe and writes the best: `python jobs/tune.py --help`.

Alone it starts Ray on this machine; with RAY_ADDRESS, or as `ray job submit --working-dir . -- python jobs/tune.py …`, it
joins the cluster.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raymask.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "tune")
    main()
