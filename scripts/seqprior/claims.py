"""One job to a device on a machine without a scheduler: a job claims a device by a lock on a file.

Snakemake limits how many GPU jobs run together, but tells none of them which GPU is its own.

The locks are record locks (POSIX `fcntl`), since these end with the process that took them, however it ends, and a
forked child does not get them: a worker that outlives its job keeps no device. `flock` would pass to the child. The
price is that record locks do not hold off the process that has them, and that it loses one by closing any descriptor
of the file, so a process also remembers what it has claimed and does not open those files again.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import pwd
import random
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from seqprior.errors import BadInput
from seqprior.files import full_disk_named

log = logging.getLogger(__name__)

# Set where devices have been assigned already: which ones a process may see, or that it is a job of Slurm, PBS, LSF or
# Grid Engine. HTCondor and Flux set CUDA_VISIBLE_DEVICES. NVIDIA_VISIBLE_DEVICES is not among them: images of NVIDIA
# set it to `all`.
ASSIGNED = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "SLURM_JOB_ID",
    "SLURM_JOB_GPUS",
    "PBS_JOBID",
    "LSB_JOBID",
    "SGE_JOB_SPOOL_DIR",
)
FOLDER_VARIABLE = "SEQPRIOR_DEVICE_LOCKS"
# Not TMPDIR: Snakemake, schedulers and login sessions set that for each job or user, and jobs must meet in one place.
TEMPORARY = Path("/tmp")
FOLDER = "seqprior-devices"
SIGNATURE_BYTES = 300
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between two looks at the locks

# (process, device number and inode of the folder, file) of each claim, and what made it. The process is part of the
# key, since a forked child inherits the table but not the locks.
_claimed: dict[tuple[int, int, int, str], object] = {}


def assigned_by() -> str | None:
    """The environment variable that says that devices have been assigned to this process, None if there is none."""
    return next((name for name in ASSIGNED if name in os.environ), None)


def lock_folder() -> Path:
    """Where the locks are: SEQPRIOR_DEVICE_LOCKS if set, otherwise a folder that all users of the machine share."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    if chosen:
        return Path(chosen)
    return (TEMPORARY if TEMPORARY.is_dir() else Path(tempfile.gettempdir())) / FOLDER


@contextmanager
def claim_device(names: Sequence[str], folder: Path, wait_seconds: float | None = None) -> Iterator[int]:
    """Hold one of the devices for the block, as the only process of this machine that does; its index in `names`.

    The first free one is taken; while there is none, this says so once and waits. No claim is made, and the index is
    0, where `assigned_by` finds that a scheduler or the user has chosen the devices that this process sees.

    Args:
        names: one per device, the same in all processes and containers that may use it, for example GPU UUIDs.
        folder: of the lock files, on a local disk; made if missing, writable to all. The files stay, and say who
            holds them.
        wait_seconds: how long to wait at most; None for as long as it takes, 0 for not at all.

    Raises:
        BadInput: the time is over, or the folder or a lock file cannot be used.
    """
    if not names:
        raise ValueError("no device to claim")
    if assigned_by() is not None:
        yield 0
        return
    directory = _open_folder(folder)
    try:
        index, lock, key = _wait_for_one(names, folder, directory, wait_seconds)
        try:
            yield index
        finally:
            # A forked child that leaves the block as well must not wipe its parent's signature.
            if key[0] == os.getpid():
                os.ftruncate(lock, 0)
            os.close(lock)  # before the entry goes: a thread that locked the file first would lose its lock by this
            _claimed.pop(key, None)
    finally:
        os.close(directory)


def _wait_for_one(
    names: Sequence[str], folder: Path, directory: int, wait_seconds: float | None
) -> tuple[int, int, tuple[int, int, int, str]]:
    """Index, descriptor of the locked file and key in `_claimed` of the first device that is or becomes free."""
    end = None if wait_seconds is None else time.monotonic() + wait_seconds
    pause, told = FIRST_PAUSE, False
    place = os.fstat(directory)
    while True:
        holders = []
        for index, name in enumerate(names):
            file = f"{quote(name, safe='')}.lock"  # some names of parts of a GPU hold slashes
            key = (os.getpid(), place.st_dev, place.st_ino, file)
            taken = _try_lock(folder / file, directory, key)
            if isinstance(taken, int):
                return index, taken, key
            holders.append(f"{name} by {taken}")
        left = None if end is None else end - time.monotonic()
        if left is not None and left <= 0:
            raise BadInput(
                f"no device is free, claimed are {'; '.join(holders)}; wait for those jobs to end, or start fewer at a "
                f"time: --resources gpu={len(names)}"
            )
        if not told:
            log.info("no device is free, claimed are %s; waiting for one", "; ".join(holders))
            told = True
        wait = pause * random.uniform(0.5, 1.5)  # at odds, so that waiting jobs do not look all at the same moment
        time.sleep(wait if left is None else min(wait, left))
        pause = min(2 * pause, LONGEST_PAUSE)


def _try_lock(path: Path, directory: int, key: tuple[int, int, int, str]) -> int | str:
    """The descriptor of the lock file, locked and signed, or who holds it."""
    token = object()
    if _claimed.setdefault(key, token) is not token:
        return _signature()
    with ExitStack() as undo:
        undo.callback(_claimed.pop, key)
        lock = _open_lock(path, directory)
        undo.callback(os.close, lock)
        if not _lock(lock, path):
            return _holder(lock)
        if not _is_current(lock, path.name, directory):
            return "a process that is just ending"
        # In place, not by renaming a new file over it: the lock belongs to this file and not to its name.
        with full_disk_named(path.parent):
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{_signature()}\n".encode()[:SIGNATURE_BYTES], 0)
        undo.pop_all()
        return lock


def _lock(lock: int, path: Path) -> bool:
    """Lock an open file unless another process has; True if it is locked now."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):  # POSIX allows either where another process has it
            return False
        raise BadInput(
            f"{path}: the file system has no locks for devices ({error.strerror}); set {FOLDER_VARIABLE} to a folder "
            f"on a local disk"
        ) from error
    return True


def _is_current(lock: int, file: str, directory: int) -> bool:
    """True if the name still leads to the open file: who cleans up /tmp may have removed it before it was locked."""
    try:
        named = os.stat(file, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(lock))


def _open_folder(folder: Path) -> int:
    """A descriptor of the folder, which is made if need be: writable to all, and only owners may delete their files."""
    try:
        with suppress(FileExistsError), _all_may_write():
            os.mkdir(folder, 0o1777)  # noqa: PTH102  # Path.mkdir's mode lacks the sticky bit on some systems
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link")
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise BadInput(
            f"{folder}: no folder for the locks of devices ({error.strerror}); set {FOLDER_VARIABLE} to one on a local "
            f"disk that all who use the devices may write"
        ) from error


def _open_lock(path: Path, directory: int) -> int:
    """A descriptor of a lock file, which is made if need be and is written to by all.

    In a folder that all may write, a name may lead anywhere: links are not followed, and nothing but a plain file that
    has no other name is taken, since it is going to be written.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            lock = os.open(path.name, flags, dir_fd=directory)
        except FileNotFoundError:
            lock = _new_lock(path.name, flags, directory)
        found = os.fstat(lock)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(lock)
            raise OSError(errno.EINVAL, "it is no plain file or has a second name")
    except OSError as error:
        raise BadInput(
            f"{path}: no lock file of a device ({error.strerror}); have its owner delete it, or set {FOLDER_VARIABLE} "
            f"to another folder for all jobs"
        ) from error
    return lock


def _new_lock(file: str, flags: int, directory: int) -> int:
    """Make the file, or open the one that another process made at the same moment.

    Only a file that is to be new is opened with O_CREAT: of another user's file in a sticky folder Linux refuses that
    (fs.protected_regular in proc(5)), although the file may be written.
    """
    try:
        with _all_may_write():
            return os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
    except FileExistsError:
        return os.open(file, flags, dir_fd=directory)


@contextmanager
def _all_may_write() -> Iterator[None]:
    """Without the umask, so that a new folder or file is writable to others from its first moment."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def _signature() -> str:
    """What this process writes into the files it locks."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container that does not know its user
        user = f"user {os.getuid()}"
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return f"process {os.getpid()} of {user} on {socket.gethostname()} since {since}"


def _holder(lock: int) -> str:
    """The signature in a locked file. All may write there, so nothing is printed that could steer a terminal."""
    line = os.pread(lock, SIGNATURE_BYTES, 0).decode(errors="replace").strip()
    return line if line.isprintable() and line else "a process that has not signed"
