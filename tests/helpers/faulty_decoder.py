"""A decoder with a fault, for every process that imports this: a JPEG with the comment `deadly` kills it."""

import os
import signal
from typing import Any

from PIL.JpegImagePlugin import JpegImageFile

load = JpegImageFile.load


def load_or_die(self: JpegImageFile) -> Any:
    if self.info.get("comment") == b"deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    return load(self)


JpegImageFile.load = load_or_die  # type: ignore[method-assign]
