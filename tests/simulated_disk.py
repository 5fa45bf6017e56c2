"""A disk for the real journal inside the simulation: it fills up, and its machine dies at any byte.

``installed(world)`` puts it under ``minimalcluster.master.journal``: the reader, the writer, its tags and its
checks are the real ones; the file, fsync, the user's key and the log are not.
"""
from __future__ import absolute_import, division, print_function

import contextlib
import errno
import os
import struct

from minimalcluster.master import journal


class MasterDied(BaseException):
    """The master's process ended while it wrote a byte. Nothing in it may catch this."""


class Disk(object):
    """One journal's file: what is written, and how much of that a power cut would leave."""

    def __init__(self, path):
        # type: (str) -> None
        self.path = path
        self.data = bytearray()
        self.synced = 0  # bytes that are on the disk for sure
        self.room = None  # type: int | None # bytes until it is full
        self.dies_in = None  # type: int | None # bytes until the master is killed
        self.stopped = 0  # how often a journal on it has stopped, loudly

    def fail(self):
        # type: () -> None
        raise OSError(errno.ENOSPC, "No space left on device")


class File(object):
    """What ``journal._opened`` returns, unbuffered: a write may take a part."""

    def __init__(self, disk):
        # type: (Disk) -> None
        self.disk, self.at = disk, 0

    def read(self, size):
        # type: (int) -> bytes
        data = bytes(self.disk.data[self.at : self.at + size])
        self.at += len(data)
        return data

    def write(self, data):
        # type: (bytes | memoryview) -> int
        disk, data = self.disk, memoryview(data).tobytes()
        if disk.dies_in is not None:
            if len(data) >= disk.dies_in:
                self._put(data[: disk.dies_in])
                disk.dies_in = None
                raise MasterDied
            disk.dies_in -= len(data)
        if disk.room is not None:
            if disk.room <= 0:
                disk.fail()
            data = data[: disk.room]
            disk.room -= len(data)
        self._put(data)
        return len(data)

    def _put(self, data):
        # type: (bytes) -> None
        self.disk.data[self.at : self.at + len(data)] = data
        self.at += len(data)

    def seek(self, at, whence=os.SEEK_SET):
        # type: (int, int) -> int
        self.at = at if whence == os.SEEK_SET else len(self.disk.data)
        return self.at

    def truncate(self):
        # type: () -> None
        disk = self.disk
        if disk.room is not None:
            disk.room += len(disk.data) - self.at
        del disk.data[self.at :]
        disk.synced = min(disk.synced, self.at)

    def fileno(self):
        # type: () -> File
        return self  # for the fsync below

    closed = False

    def close(self):
        # type: () -> None
        pass


class _System(object):
    """What the journal uses of ``os``."""

    path, environ, SEEK_END, getpid = os.path, os.environ, os.SEEK_END, staticmethod(os.getpid)

    def __init__(self, world):
        # type: (object) -> None
        self._world = world

    def urandom(self, size):
        # type: (int) -> bytes
        number = self._world.next_number()  # type: ignore[attr-defined]
        return struct.pack(">QQ", number, 0)[:size]

    def fsync(self, file):
        # type: (File) -> None
        file.disk.synced = len(file.disk.data)


class _Log(object):
    def __init__(self, world):
        # type: (object) -> None
        self._world = world

    def warning(self, text, *arguments):
        # type: (str, *object) -> None
        self._world.note("journal", text % arguments)  # type: ignore[attr-defined]

    def error(self, text, path, *arguments):
        # type: (str, str, *object) -> None
        self.warning(text, path, *arguments)
        self._world.disks[path].stopped += 1  # type: ignore[attr-defined]


@contextlib.contextmanager
def installed(world):
    # type: (object) -> object
    """While a world runs, journals are files of that world. ``world.disks``: path -> Disk."""
    replaced = {
        "_opened": lambda path, reading=False: (File(world.disks[path]), False),  # type: ignore[attr-defined]
        "unlock_file": lambda file: None,
        "_user_key": lambda: b"a user's key for simulated runs!",
        "_sync_folder": lambda path: None,
        "os": _System(world),
        "log": _Log(world),
    }
    originals = {name: vars(journal)[name] for name in replaced}
    vars(journal).update(replaced)
    try:
        yield
    finally:
        vars(journal).update(originals)
