"""A process's folder among the temporary files, and what killed processes have left there.

Removed is only what this package can have made, and what has no owner any more:

* Folder and *mark*, a file in it, are this user's, and no links. The mark begins with MAGIC and names its folder.
* The owner holds a lock on its mark for as long as it lives. A process id would tell nothing: containers, and machines
  that have one folder for temporary files, count their processes each for itself.
* Some file systems lock for each machine alone, so a mark of another machine is left to that one. Some cannot lock:
  there nothing but the owner removes a folder, at its end.
* Of a folder's content, what has our ending. Anything else stays, and the folder with it.
"""
from __future__ import absolute_import, division, print_function

import io
import os
import socket
import stat
import tempfile

from ..compat import LOCKED, WINDOWS, as_bytes, lock_file

PREFIX = "minimalcluster-"
#: What files of ours end with.
ENDING = ".shared"
PART_ENDING = ENDING + ".part"
MARK = "minimalcluster.owner"
MAGIC = b"a folder of minimalcluster's, which removes it\n"
MARK_BYTES_MAX = 4096
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Scratch(object):
    """Made when its path is asked for. A forked process has none of its parent's."""

    def __init__(self):
        # type: () -> None
        self._path = None  # type: str | None
        self._mark = None  # type: io.FileIO | None
        self._pid = 0

    def path(self):
        # type: () -> str
        """Where it is. Raises OSError that names what cannot be written."""
        if not self.is_ours() or not os.path.isdir(self._path):  # type: ignore[arg-type] # a cleaner of old files was there
            self._let_go()
            remove_left_behind()
            self._path = tempfile.mkdtemp(prefix=PREFIX)
            try:
                self._mark = _marked(self._path)
            except (OSError, IOError):
                _remove(self._path)
                raise
            self._pid = os.getpid()
        return self._path  # type: ignore[return-value]

    def is_ours(self):
        # type: () -> bool
        return self._path is not None and self._pid == os.getpid()

    def close(self):
        # type: () -> None
        path = self._path if self.is_ours() else None
        self._let_go()
        if path is not None:
            _remove(path)

    def _let_go(self):
        # type: () -> None
        if self._mark is not None:
            self._mark.close()  # of a forked process: the parent's lock stays
        self._path = self._mark = None


def remove_left_behind():
    # type: () -> None
    """Folders whose owner was killed."""
    parent = tempfile.gettempdir()
    try:
        names = os.listdir(parent)
    except OSError:
        return  # files can be made there and not listed
    for name in names:
        if name.startswith(PREFIX):
            path = os.path.join(parent, name)
            try:
                left = _is_left(path)
            except (OSError, IOError):
                continue  # another user's, no folder, without a mark, or just removed
            if left:
                _remove(path)


def _is_left(path):
    # type: (str) -> bool
    """Whether the folder is ours and its owner does not live. Raises OSError."""
    about = os.lstat(path)
    if not (stat.S_ISDIR(about.st_mode) and _is_mine(about)):
        return False
    flags = os.O_RDWR | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0)
    with io.open(os.open(os.path.join(path, MARK), flags), "r+b", buffering=0) as mark:
        about = os.fstat(mark.fileno())
        if not (stat.S_ISREG(about.st_mode) and _is_mine(about)) or lock_file(mark) != LOCKED:
            return False
        lines = (mark.read(MARK_BYTES_MAX) or b"").splitlines(True)
    ours = _mark_lines(path)
    # Either tells this machine: containers have names of their own, and the system another number after its next start.
    return lines[:2] == ours[:2] and len(lines) == 4 and (lines[2] == ours[2] or lines[3] == ours[3] != b"-\n")


def _marked(path):
    # type: (str) -> io.FileIO
    """The mark, locked before it says anything: until then nobody takes the folder for left behind."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    mark = io.open(os.open(os.path.join(path, MARK), flags, 0o600), "r+b", buffering=0)  # noqa: SIM115
    try:
        lock_file(mark, wait=True)
        mark.write(b"".join(_mark_lines(path)))
    except (OSError, IOError) as error:
        error.filename = path
        mark.close()
        raise
    return mark


def _mark_lines(path):
    # type: (str) -> list
    try:
        with open(_BOOT_ID, "rb") as file:
            boot = file.read().strip()
    except (OSError, IOError):
        boot = b"-"
    return [MAGIC] + [as_bytes(line) + b"\n" for line in (os.path.basename(path), socket.gethostname(), boot)]


def _is_mine(about):
    # type: (os.stat_result) -> bool
    return WINDOWS or about.st_uid == os.geteuid()


def _remove(path):
    # type: (str) -> None
    """Our files in it, the mark, the folder; what cannot be removed stays."""
    try:
        names = [name for name in os.listdir(path) if name.endswith((ENDING, PART_ENDING))]
    except OSError:
        return
    for name in names + [MARK]:
        try:
            os.remove(os.path.join(path, name))
        except OSError:
            if name != MARK:
                return  # Windows, while a process maps it: the mark must stay to tell what the folder is
    try:
        os.rmdir(path)
    except OSError:
        pass
