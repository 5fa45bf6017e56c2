"""Whether what is made of bytes takes memory in proportion to them: looked at now and then, since it takes time."""
from __future__ import absolute_import, division, print_function

from tests.fuzz.choices import Wrong

try:
    import tracemalloc
except ImportError:  # 2.7: there it is not measured
    pass

#: Bytes of memory for a byte of a frame: JSON's "{}," is 88 bytes in a list, a buffer's length of 8 bytes a view of 200.
OF_FRAMES = 100
#: And of a pickle that must be safe: it may copy 8 elements into sets, of some 80 bytes each.
OF_PICKLES = 1000
#: And for no byte at all.
AT_LEAST = 200000
#: Every how manyth call of ``bounded`` is measured; 0: none. Python 3 only.
every = 0
_calls = 0


def bounded(received, per_byte, function, *arguments):
    # type: (int, int, object, *object) -> object
    """What the function returns. Raises Wrong if its memory was, at any time, out of proportion to the bytes received."""
    global _calls
    _calls += 1
    if not every or _calls % every:
        return function(*arguments)  # type: ignore[operator]
    tracemalloc.start()
    try:
        return function(*arguments)  # type: ignore[operator]
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        if peak > AT_LEAST + per_byte * received:
            raise Wrong("%d bytes of memory for %d that were received" % (peak, received))
