"""A process's own folder among the temporary files. Folders that killed processes have left there are removed.

A folder is removed only if this package made it and its owner (the process that made it) has ended:

* The folder and its *mark*, a file in it, belong to this user and are not links. The mark begins with MAGIC and has the
  name of its folder.
* The owner holds a lock on its mark until it ends. A process id would not do: containers and machines that share a
  folder for temporary files have the same process ids for different processes.
* On some file systems other machines do not see a lock, so a mark of another machine is left to that machine. On some
  file systems there are no locks; there only the owner removes its folder, at its end.
* Only files with our ending are removed. If there are others, they stay, and so does the folder.
"""
from __future__ import absolute_import, division, print_function

import io
import os
import socket
import stat

from ..compat import LOCKED, WINDOWS, as_bytes, lock_file

PREFIX = "minimalcluster-"
#: The names of our files end with one of these.
ENDING = ".shared"
PART_ENDING = ENDING + ".part"
MARK = "minimalcluster.owner"
MAGIC = b"a folder of minimalcluster's, which removes it\n"
MARK_BYTES_MAX = 4096
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Scratch(object):
    """The folder is made by the first call of ``path``. A forked process does not use its parent's folder."""

    def __init__(self):
        # type: () -> None
        self._path = None  # type: str | None
        self._mark = None  # type: io.FileIO | None
        self._pid = 0

    def path(self):
        # type: () -> str
        """The folder's path. Raises OSError with the name of the file that cannot be written."""
        import tempfile  # it imports compressors and random numbers: the start of a program need not wait for them

        path = self._path
        if path is None or not self.is_ours() or not os.path.isdir(path):  # a cleaner of old files removed it
            self._forget()
            remove_left_behind()
            self._path = path = tempfile.mkdtemp(prefix=PREFIX)
            try:
                self._mark = _marked(path)
            except (OSError, IOError):
                _remove(path)
                raise
            self._pid = os.getpid()
        return path

    def is_ours(self):
        # type: () -> bool
        return self._path is not None and self._pid == os.getpid()

    def close(self):
        # type: () -> None
        path = self._path if self.is_ours() else None
        self._forget()
        if path is not None:
            _remove(path)

    def _forget(self):
        # type: () -> None
        if self._mark is not None:
            self._mark.close()  # in a forked process this leaves the parent's lock
        self._path = self._mark = None


def remove_left_behind():
    # type: () -> None
    """Remove the folders whose owners were killed."""
    import tempfile

    parent = tempfile.gettempdir()
    try:
        names = os.listdir(parent)
    except OSError:
        return  # a folder may allow making files, but not listing them
    for name in names:
        if name.startswith(PREFIX):
            path = os.path.join(parent, name)
            try:
                is_left_behind = _is_left_behind(path)
            except (OSError, IOError):
                continue  # another user's, not a folder, without a mark, or removed just now
            if is_left_behind:
                _remove(path)


def _is_left_behind(path):
    # type: (str) -> bool
    """Whether this package made the folder on this machine, and its owner has ended. Raises OSError."""
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
    # It is this machine if one of the two is the same: the host name, which differs between containers, or the boot id,
    # which changes with each start of the system.
    return lines[:2] == ours[:2] and len(lines) == 4 and (lines[2] == ours[2] or lines[3] == ours[3] != b"-\n")


def _marked(path):
    # type: (str) -> io.FileIO
    """Make the mark and lock it before writing: other processes never remove a folder with an empty mark."""
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
    """Remove our files, the mark and the folder, as far as possible."""
    try:
        names = [name for name in os.listdir(path) if name.endswith((ENDING, PART_ENDING))]
    except OSError:
        return
    for name in names + [MARK]:
        try:
            os.remove(os.path.join(path, name))
        except OSError:
            if name != MARK:
                return  # Windows, while a process maps the file; the mark stays, so that it can be removed later
    try:
        os.rmdir(path)
    except OSError:
        pass
