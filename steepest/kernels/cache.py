"""The folder in which compiled kernels wait for the next process.

Machine code read from it is run, so it is used only when this user alone can write there;
otherwise kernels are compiled in memory, and one warning says why.
"""

import functools
import hashlib
import os
import stat
import tempfile
import warnings
from pathlib import Path


def folder() -> Path:
    """Return the cache folder: `$STEEPEST_CACHE_DIR`, or the platform's user cache."""
    if chosen := os.environ.get("STEEPEST_CACHE_DIR"):
        return Path(chosen).absolute()
    import platformdirs

    return platformdirs.user_cache_path("steepest") / "kernels"


def read(name: str) -> bytes | None:
    """Return machine code kept before; None when it is absent, damaged or not to be trusted."""
    here = folder()
    try:
        if not here.is_dir() or _distrust(here):
            return None
        content = (here / f"{name}.o").read_bytes()
    except OSError:
        return None
    seal, code = content[:32], content[32:]
    return code if seal == _seal(name, code) else None


def keep(name: str, code: bytes, text: str) -> None:
    """Keep machine code as `name.o`, and its source as `name.py` for a person to read.

    Each file appears whole or not at all; two writers do not disturb each other. A folder that
    cannot be used costs one warning in a process, and nothing else.
    """
    here = folder()
    try:
        if here.is_absolute():
            here.mkdir(mode=0o700, parents=True, exist_ok=True)
        reason = _distrust(here)
        if reason is None:
            _replace(here / f"{name}.py", text.encode())
            _replace(here / f"{name}.o", _seal(name, code) + code)
            return
    except OSError as error:
        reason = f"it cannot be written ({error.strerror or error})"
    _warn_once(str(here), reason)


def _seal(name: str, code: bytes) -> bytes:
    """Return 32 bytes that tell whether a file is whole, and the one of its name."""
    return hashlib.sha256(name.encode() + b"\0" + code).digest()


def _distrust(here: Path) -> str | None:
    """Say why a folder is not safe to run code from; None when it is."""
    if not here.is_absolute():
        return "you have no home folder"
    about = here.lstat()
    if not stat.S_ISDIR(about.st_mode):
        return "it is no folder of its own (a link, or a file)"
    if os.name == "nt":
        return None  # the user's own profile; there are no mode bits to ask
    if about.st_uid != os.geteuid():
        return f"it belongs to user {about.st_uid}, not to you ({os.geteuid()})"
    if about.st_mode & 0o077:
        return f"others may enter it (mode {about.st_mode & 0o777:o}); run `chmod 700` on it"
    return None


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


@functools.cache
def _warn_once(here: str, reason: str) -> None:
    warnings.warn(
        f"the kernel cache {here} is not used: {reason}; kernels are compiled in memory, "
        "anew in every process (STEEPEST_CACHE_DIR names another folder)",
        stacklevel=2,
    )
