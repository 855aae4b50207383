"""How a script ends: 0 done, 1 a bug (traceback), 2 bad input (one sentence), 3 out of memory after every back-off."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable

BAD_INPUT, OUT_OF_MEMORY = 2, 3


class BadInput(Exception):
    """The input is at fault. The message is one sentence: file and line, what was found, what to do."""


class OutOfMemory(Exception):
    """The device has no memory for even the smallest batch."""


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main` and leave the process with the right exit code. Logs go to standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    # A scheduler's SIGTERM unwinds the stack, so that what was computed is kept and half-written files are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        main()
    except BadInput as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(BAD_INPUT)
    except OutOfMemory as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(OUT_OF_MEMORY)
