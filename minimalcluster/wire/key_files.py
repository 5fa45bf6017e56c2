"""Key files: read only if no other user can read or exchange them.

Links are not followed, and the owner and the mode of the open file are checked. Its folder may be open to others (``~``
often is): a file that another user puts there has another owner, and is refused.
"""
from __future__ import absolute_import, division, print_function

import errno
import os
import stat
import time

from ..compat import WINDOWS, monotonic, native, text_type
from ..errors import KeyFileError
from . import keys

#: A key file has one line. More than this is another file.
FILE_BYTES_MAX = 4096
#: A new key file is empty for less than a millisecond, until its key is written.
EMPTY_SECONDS, EMPTY_LOOK_SECONDS = 1.0, 0.01
_MARKS = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))  # PowerShell's ">" writes UTF-16


def read(path):
    # type: (str) -> str
    """The key in a key file. Raises KeyFileError with what is wrong and what to do."""
    path = expanded(path)
    until = monotonic() + EMPTY_SECONDS
    while True:
        text = _text(_content(path), path)
        if text:
            return native(text)
        if monotonic() > until:
            raise KeyFileError("the key from %s is empty; remove the file, or write the key into it" % path)
        time.sleep(EMPTY_LOOK_SECONDS)  # another process has just made it


def check_one(authkey, key_file):
    # type: (object, object) -> None
    """Raises ValueError for two keys, TypeError for what is no key. No error shows the value, which may be the key."""
    if not (authkey is None or isinstance(authkey, (bytes, bytearray, text_type))):
        raise TypeError("AUTHKEY must be text or bytes, not %s" % type(authkey).__name__)
    if authkey is not None and key_file is not None:
        raise ValueError("AUTHKEY and key_file are two keys: give one of them")


def expanded(path):
    # type: (str) -> str
    return os.path.expanduser(path)


def _content(path):
    # type: (str) -> bytes
    if os.path.islink(path):  # O_NOFOLLOW says the same in other words, and only where it exists
        raise KeyFileError("%s is a symbolic link; a key file must be a file itself" % path)
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except (OSError, IOError) as error:
        remedy = "; copy the master's key file there" if error.errno == errno.ENOENT else ""
        raise KeyFileError("the key file %s cannot be read: %s%s" % (path, error.strerror, remedy))
    try:
        check_private(os.fstat(descriptor), path)
        return os.read(descriptor, FILE_BYTES_MAX + 1)
    except (OSError, IOError) as error:
        raise KeyFileError("the key file %s cannot be read: %s" % (path, error.strerror))
    finally:
        os.close(descriptor)


def check_private(about, path):
    # type: (os.stat_result, str) -> None
    """Raise KeyFileError for a file that is not this user's alone.

    about: the open file's, so that the file cannot be exchanged between a look and the reading.
    """
    if not stat.S_ISREG(about.st_mode):
        raise KeyFileError("%s is no file, so it cannot be a key file; --key-stdin reads a key from a pipe" % path)
    if WINDOWS:
        return  # its modes say nothing of other users
    if about.st_uid != os.geteuid():
        text = "%s belongs to another user (uid %d, you are %d); copy the key into a file of your own"
        raise KeyFileError(text % (path, about.st_uid, os.geteuid()))
    if about.st_mode & 0o077:
        text = "%s is readable by others (mode %04o); run: chmod 600 %s"
        raise KeyFileError(text % (path, stat.S_IMODE(about.st_mode), path))


def _text(data, path):
    # type: (bytes, str) -> str
    if len(data) > FILE_BYTES_MAX:
        raise KeyFileError("%s has more than %d bytes, so it is no key file" % (path, FILE_BYTES_MAX))
    try:
        for mark, encoding in _MARKS:
            if data.startswith(mark):
                data = data[len(mark) :].decode(encoding).encode("utf-8")
        return keys.as_key(data).decode("utf-8")
    except UnicodeDecodeError:
        raise KeyFileError("%s is not text in UTF-8, so it cannot be a key file" % path)
