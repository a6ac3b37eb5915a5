"""Predicts any number of images by a finished run: `python jobs/predict.py --help`.

Alone it starts Ray on this machine; with RAY_ADDRESS, or as `ray job submit --working-dir . -- python jobs/predict.py …`, it
joins the cluster.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raymask.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "predict")
    main()
