"""Calls with large arguments: bytes, texts and arrays in them are not copied into the pickle, but sent beside it."""
from __future__ import absolute_import, division, print_function

import struct

from ..pieces import Pieces  # noqa: F401 # in type comments
from . import functions, script, values

_SIZE_4, _SIZE_8 = struct.Struct("<I"), struct.Struct("<Q")
#: Of pickle: BINBYTES and BINUNICODE, with a size of 4 bytes; BINBYTES8, BINUNICODE8 and BYTEARRAY8, with one of 8.
_WITH_SIZE_4, _WITH_SIZE_8 = (b"B", b"X"), (b"\x8e", b"\x8d", b"\x96")


def pack(value, with_script=True):
    # type: (object, bool) -> values.Packed
    """As ``functions.pack``; the pickle may be ``Pieces``, if there is something large in it."""
    try:
        data = values.dumps_in_pieces(value)
    except Exception:
        return functions.pack(value, with_script)
    if isinstance(data, bytes):
        return functions.pack(value, with_script)
    code = opcodes(data)
    if not script.may_be_named_in(code):
        return values.Packed(data, values.NOTHING)
    found = script.findable()
    if not (with_script and found is not None and found.surely_defines(code)):
        return functions.pack(value, with_script)
    functions.expect_classes_of_script()
    return values.Packed(data, values.SCRIPT)


def opcodes(pieces):
    # type: (Pieces) -> bytes
    """The pickle without its large contents."""
    found = []  # type: list
    size = -1  # of the contents that the last piece announces
    for piece in pieces.pieces:
        if len(piece) == size:
            size = -1
        else:
            found.append(piece)
            size = _announced(piece)
    return b"".join(found)


def _announced(piece):
    # type: (bytes) -> int
    """The size of the contents that come after this piece, if it ends with their opcode and size, else -1."""
    if piece[-5:-4] in _WITH_SIZE_4:
        return _SIZE_4.unpack(piece[-4:])[0]
    if piece[-9:-8] in _WITH_SIZE_8:
        return _SIZE_8.unpack(piece[-8:])[0]
    return -1
