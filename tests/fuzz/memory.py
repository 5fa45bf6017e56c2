"""Whether what is made of bytes takes memory in proportion to them: looked at now and then, since it takes time."""
from __future__ import absolute_import, division, print_function

from tests.fuzz.choices import Wrong

#: Bytes of memory for a byte that was received, and for none. JSON's "{}," is 88 bytes in a list, a buffer's length of 8
#: bytes a view of 200.
PER_BYTE, AT_LEAST = 100, 200000
#: Every how manyth call of ``bounded`` is measured; 0: none. Python 3 only.
every = 0
_calls = 0


def bounded(received, function, *arguments):
    # type: (int, object, *object) -> object
    """What the function returns. Raises Wrong if its memory was, at any time, out of proportion to the bytes received."""
    global _calls
    _calls += 1
    if not every or _calls % every:
        return function(*arguments)  # type: ignore[operator]
    import tracemalloc

    tracemalloc.start()
    try:
        return function(*arguments)  # type: ignore[operator]
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        if peak > AT_LEAST + PER_BYTE * received:
            raise Wrong("%d bytes of memory for %d that were received" % (peak, received))
