"""Which results are seen to be plain by their bytes, so that loading them runs no code and takes no time.

The cluster's thread must neither run a user's code nor wait. Whatever a node has sent: if its bytes have one of these
forms, it is a number, a short text or the like.
"""

import re
from typing import Any, Sequence

#: Longer ones are loaded where all others are.
BYTES_MAX = 300

#: A pickle (see pickletools.py) of a list of one value: None, a bool, a number; a whole number, a text or bytes of a
#: length that is told in one byte.
_LIST_OF_ONE = re.compile(
    rb"\x80[\x03-\x05](?:\x95.{8})?\]\x94"
    rb"(?:[N\x88\x89]|K.|M..|J.{4}|G.{8}|\x8a(?P<long_size>.)(?P<long>.*)|[\x8cC](?P<size>.)(?P<text>.*)\x94)"
    rb"a\.\Z",
    re.DOTALL,
)


def is_plain(buffers: Sequence[Any]) -> bool:
    """Whether these buffers, of one result, are of a plain value."""
    if len(buffers) != 2 or buffers[0] != b"P" or len(buffers[1]) > BYTES_MAX:
        return False
    found = _LIST_OF_ONE.match(buffers[1])
    return found is not None and all(
        found[size] is None or ord(found[size]) == len(found[data])
        for size, data in (("long_size", "long"), ("size", "text"))
    )
