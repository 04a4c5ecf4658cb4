"""How much memory there is."""

import contextlib
import os
from pathlib import Path


def memory_of_machine() -> int:
    """Return the machine's memory in bytes, or what a container may take of it."""
    found = [8 * 2**30]  # where nothing tells
    if hasattr(os, "sysconf"):
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found)
