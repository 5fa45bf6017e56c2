"""Messages to buffers, bytes to messages: the frames of one proved connection. Pure.

* A frame is: type (1 byte), length (8), check (4), body, tag (16).
* The tag covers the frame's sequence number (which is never sent), type, length and body, under one key per direction.
  It is verified before the body is read. With ``tagged=False`` there is no tag: under TLS, which has its own, and
  between a node and its own worker process, which only the kernel connects.
* The check is the CRC-32 of type and length. Without it, a length that was damaged on the way would make the receiver
  wait for bytes that never come, and never give up, because all arriving bytes count as a sign of life.
* A message larger than ``PIECE_BYTES`` travels in pieces, so that a heartbeat or a small task need not wait for 30 MB.
  Each piece is a frame with its own tag: of type ``PIECE`` while more follow, of the message's type + ``LAST`` at the
  end. Only one large message is on its way at a time, so a receiver never holds more than one that is incomplete.
  Between its pieces other messages may pass, except those that ``protocol.order`` forbids.
* Only a handshake that has verified the proof makes a ``Channel`` (``handshakes.py``).
"""
from __future__ import absolute_import, division, print_function

import binascii
import hashlib
import hmac
import struct
from collections import deque

from .. import errors
from .protocol import ANYTHING, FRAME_BYTES_MAX, decode, encode, order

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any  # noqa: F401 # novm

#: An urgent message waits for one piece at most, so for two seconds at 1 Mbit/s. Smaller ones cost more on fast links.
PIECE_BYTES = 256 << 10
#: PIECE: the type of a frame after which more pieces follow. LAST: added to a message's type in its last piece.
PIECE, LAST = 0, 128

_FRAME = struct.Struct(">BQ")
_CHECK = struct.Struct(">I")
_HEAD_BYTES = _FRAME.size + _CHECK.size
_SEQUENCE = struct.Struct(">Q")
_TAG_BYTES = 16


class ChangedOnTheWay(errors.ProtocolError):
    """Not what the peer has sent: it is not the peer's fault."""


class _Outgoing(object):
    """A message that waits for its turn. ``buffers`` is the rest of it, ``sent`` the number of bytes that have gone.

    ``message`` comes without its payload, so that a sent buffer does not stay in memory.
    """

    __slots__ = ("buffers", "message", "names", "number", "sent", "size")

    def __init__(self, message, number, buffers, size):
        # type: (Any, int, list, int) -> None
        self.number, self.size, self.sent = number, size, 0
        self.buffers = deque(buffers)  # type: deque
        if hasattr(message, "payload"):
            message = message._replace(payload=())
        self.message = message
        self.names = order(message)[0] + [ANYTHING]

    def take(self, size):
        # type: (int) -> tuple
        """(type, buffers) of a frame with the next bytes, at most size of them."""
        left, taken, whole = size, [], self.sent == 0 and self.size <= size
        while left and self.buffers:
            buffer = self.buffers.popleft()
            if len(buffer) > left:
                view = memoryview(buffer)
                self.buffers.appendleft(view[left:])
                buffer = view[:left]
            left -= len(buffer)
            taken.append(buffer)
        self.sent += size - left
        if self.sent < self.size:
            return PIECE, taken
        taken.extend(self.buffers)  # only empty buffers are left
        return self.number if whole else self.number + LAST, taken


def head(number, size):
    # type: (int, int) -> bytes
    """The first bytes of a frame: its type, its body's size, and their check."""
    type_and_size = _FRAME.pack(number, size)
    return type_and_size + _CHECK.pack(binascii.crc32(type_and_size) & 0xFFFFFFFF)


class Channel(object):
    """Both directions of one proved connection: messages to buffers, bytes to messages.

    ``send`` takes a message, ``pull`` returns the buffers to write next. A sender that writes each message at once
    calls ``frame`` instead. tagged: whether frames have tags. local: within one machine, where no message is divided
    into pieces.
    """

    def __init__(self, send_key, receive_key, tagged=True, frame_bytes_max=FRAME_BYTES_MAX, local=False):
        # type: (bytes, bytes, bool, int, bool) -> None
        self._send_tag = hmac.new(send_key, None, hashlib.sha256)
        self._receive_tag = hmac.new(receive_key, None, hashlib.sha256)
        self.tagged, self.local = tagged, local
        self._tag_bytes = _TAG_BYTES if tagged else 0
        self._frame_bytes_max = frame_bytes_max
        self._piece_bytes = frame_bytes_max if local else PIECE_BYTES
        self._sent = 0
        self._received = 0
        self._buffer = bytearray()
        self.lacking = 0  # how many bytes the frame lacks that has begun to arrive: no message comes before these
        self._parts = bytearray()  # the received pieces of an incomplete message
        self._ready = deque()  # type: deque # (number, buffers) of small messages, which pass those that wait
        self._waiting = deque()  # type: deque # _Outgoing: large messages, and small ones that must not pass them
        self._names = {}  # type: dict # name (protocol.order) of waiting messages -> how many of them have it

    # -- out --------------------------------------------------------------------------------------

    def frame(self, message):
        # type: (tuple) -> list
        """The buffers to write, in order: this message in one frame. Raises FrameTooLarge."""
        number, buffers, _ = self._encoded(message)
        return self._framed(number, buffers)

    def send(self, message):
        # type: (tuple) -> None
        """Queue a message: the next ``pull`` returns it. A large message, or one that must not pass a waiting one, is
        returned when its turn comes. Raises FrameTooLarge."""
        number, buffers, size = self._encoded(message)
        if size <= self._piece_bytes and not (self._waiting and self._must_wait(message)):
            self._ready.append((number, buffers))
            return
        outgoing = _Outgoing(message, number, buffers, size)
        self._waiting.append(outgoing)
        for name in outgoing.names:
            self._names[name] = self._names.get(name, 0) + 1

    def pull(self):
        # type: () -> list
        """The buffers to write next: all small messages, then one piece of the first that waits. Empty if there is
        nothing to send."""
        buffers = []  # type: list
        while self._ready:
            buffers += self._framed(*self._ready.popleft())
        if self._waiting:
            outgoing = self._waiting[0]
            buffers += self._framed(*outgoing.take(self._piece_bytes))
            if outgoing.sent == outgoing.size:
                self._waiting.popleft()
                for name in outgoing.names:
                    self._names[name] -= 1
                    if not self._names[name]:
                        del self._names[name]
        return buffers

    def sending(self):
        # type: () -> list
        """(message without its payload, bytes sent, bytes in all) of each message that waits for its turn."""
        return [(each.message, each.sent, each.size) for each in self._waiting]

    @property
    def receiving(self):
        # type: () -> int
        """How many bytes of an incomplete large message have arrived."""
        return len(self._parts)

    def _must_wait(self, message):
        # type: (tuple) -> bool
        return any(name in self._names for name in order(message)[1])

    def _encoded(self, message):
        # type: (tuple) -> tuple
        number, buffers = encode(message)
        size = sum(map(len, buffers))
        if size > self._frame_bytes_max:
            raise errors.FrameTooLarge(
                "%s of %d bytes, limit %d" % (type(message).__name__, size, self._frame_bytes_max)
            )
        return number, buffers, size

    def _framed(self, number, buffers):
        # type: (int, list) -> list
        framed = [head(number, sum(map(len, buffers)))] + buffers
        if self._tag_bytes:
            framed.append(_tag(self._send_tag, self._sent, framed))
            self._sent += 1
        return framed

    # -- in ---------------------------------------------------------------------------------------

    def feed(self, data):
        # type: (bytes | memoryview) -> list
        """The messages that these bytes complete.

        Raises ProtocolError, FrameTooLarge among them; then the connection must be closed.
        """
        self._buffer += data
        if len(data) < self.lacking:
            self.lacking -= len(data)
            return []
        messages = []  # type: list
        start = self.lacking = 0
        buffer = self._buffer
        while len(buffer) - start >= _HEAD_BYTES:
            number, size = _FRAME.unpack_from(buffer, start)
            if buffer[start : start + _HEAD_BYTES] != head(number, size):
                raise ChangedOnTheWay("the head of frame %d was changed on the way" % self._received)
            whole = size if PIECE < number < LAST else size + len(self._parts)
            if whole > self._frame_bytes_max:
                text = "a message of %d bytes is announced, limit %d" % (whole, self._frame_bytes_max)
                raise errors.FrameTooLarge(text)
            body_end = start + _HEAD_BYTES + size
            if len(buffer) < body_end + self._tag_bytes:
                self.lacking = body_end + self._tag_bytes - len(buffer)
                break
            view = memoryview(buffer)
            if self._tag_bytes:
                self._check(view, start, body_end)
            body = view[start + _HEAD_BYTES : body_end]
            if number == PIECE:
                self._parts += body
            elif number < LAST:
                messages.append(decode(number, body))
            else:
                messages.append(self._completed(number - LAST, body))
            start = body_end + self._tag_bytes
        if start:
            # A bytearray with views cannot be shortened, and the messages hold views of it: the rest is copied.
            self._buffer = bytearray(memoryview(buffer)[start:])
        return messages

    def _completed(self, number, body):
        # type: (int, memoryview) -> tuple
        self._parts += body
        parts, self._parts = self._parts, bytearray()
        return decode(number, memoryview(parts))

    def _check(self, view, start, body_end):
        # type: (memoryview, int, int) -> None
        expected = _tag(self._receive_tag, self._received, [view[start:body_end]])
        if not hmac.compare_digest(expected, view[body_end : body_end + _TAG_BYTES].tobytes()):
            raise ChangedOnTheWay("frame %d has a wrong tag: changed, replayed or cut on the way" % self._received)
        self._received += 1


def _tag(keyed, sequence, buffers):
    # type: (hmac.HMAC, int, list) -> bytes
    digest = keyed.copy()
    digest.update(_SEQUENCE.pack(sequence))
    for buffer in buffers:
        digest.update(buffer)
    return digest.digest()[:_TAG_BYTES]
