"""One engine at a time on a job: a lock that the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import errno
import os
import sys
import time
from pathlib import Path

from engine.errors import UserError

LOCK_NAME = "job.lock"
# An engine that was just ended may hold on for a moment, until the graphics card has let go of it.
WAIT_S = 5.0
LOOK_S = 0.1


class JobLock:
    """The lock of the job folder `folder`; free until `acquire`. The file stays, only the lock on it counts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Make it ours. A disk without locks (some network drives) gives it to everybody.

        Raises: UserError if another engine has it for longer than WAIT_S; OSError if its file cannot be made.
        """
        descriptor = os.open(self.folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + WAIT_S
        while not _is_ours(descriptor):
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise UserError(
                    f"Another engine is at work on the job in {self.folder}.", "Wait until it is done, or cancel it there.", "busy"
                )
            time.sleep(LOOK_S)
        self._descriptor = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    try:
        _lock(descriptor)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
