"""The wire: handshake, frames and messages. Pure: bytes in, bytes and messages out.

::

    server                              client
      HELLO  ------------------------->            who I am, a salt, a nonce; nothing keyed
             <-------------------------  AUTH      the client proves the key first
      OK     ------------------------->            then the server proves it, to a member only
      frame  <------------------------>  frame     type(1) length(8) check(4) body tag(16)

Rules:

* Nothing keyed is sent to a peer that has not proved itself; a refusal is one byte.
* A frame's tag covers its sequence number (never sent), type, length and body, with one key per
  direction, and is checked before the body is looked at. Under ``tagged=False`` (a node and its
  own child on loopback, where nobody but the kernel is between them) it is left out. The check is the CRC-32 of
  type and length: since all bytes are a sign of life, a length that was changed by accident would be waited for.
* A message is plain data: signed 64-bit integers, then one JSON object where the layout has one,
  then opaque buffers where it has them. No pickle is read here.
* A message larger than ``PIECE_BYTES`` travels in pieces, each a frame with a tag of its own: type ``PIECE`` while
  more is to come, then the message's type + ``LAST``. One large message is on its way at a time; between its
  pieces others pass it, so that a beat or a small task does not wait for 30 MB. ``order`` says which may not:
  a part of a job stays behind the job's definition, a revocation behind its grant, the end of a job behind both,
  a report behind reports, Joined and Drop behind all. The receiver has an unfinished message's bytes, and no more.
* There is one way to a ``Channel``: a handshake that ran the proof.

The handshake is that of SECURITY.md; HMAC is RFC 2104, HKDF RFC 5869, PBKDF2 RFC 8018.
"""
from __future__ import absolute_import, division, print_function

import binascii
import hashlib
import hmac
import json
import re
import struct
from collections import deque, namedtuple

from .. import errors
from ..compat import as_bytes, hexadecimal

# Read as a multiprocessing length this is 1.8 GB: an old peer fails at once instead of hanging.
MAGIC = b"minicl1\n"
VERSION = 2
NODE, CHILD = 1, 2  # roles
REFUSED_KEY, REFUSED_VERSION = 1, 2

#: OWASP's figure for PBKDF2-HMAC-SHA256 (2023); a client accepts no fewer and at most 10 times it.
KDF_ROUNDS = 600000
#: A key made by ``generate_key`` has 256 random bits and needs no stretching.
GENERATED_KEY = re.compile(br"^mck-[0-9a-f]{64}$")

FRAME_BYTES_MAX = 2 << 30
#: What one argument or result may have: a frame's head needs some room.
OBJECT_BYTES_MAX = FRAME_BYTES_MAX - (1 << 20)
BUFFERS_MAX = 1 << 24
#: What has to pass waits for one piece at most: two seconds at 1 Mbit/s. Smaller ones cost more on fast links.
PIECE_BYTES = 256 << 10
PIECE, LAST = 0, 128  # a frame's type: more is to come; added to the message's: its last piece
UNTAGGED = 1  # flag in HELLO

_HELLO = struct.Struct(">8sBB16sI32s")
_AUTH = struct.Struct(">8sB32sB16sBBB")
_OK = struct.Struct(">QIB32s")
_FRAME = struct.Struct(">BQ")
_CHECK = struct.Struct(">I")
_HEAD_BYTES = _FRAME.size + _CHECK.size
_SEQUENCE = struct.Struct(">Q")
_COUNT = struct.Struct(">I")
_TAG_BYTES = 16
_PROOF_BYTES = 32


# -- messages -------------------------------------------------------------------------------------
# master -> node (and on to its children)

DefineJob = namedtuple("DefineJob", "job info payload")
Grant = namedtuple("Grant", "attempt job first count careful payload")
Revoke = namedtuple("Revoke", "attempt kill")
ForgetJob = namedtuple("ForgetJob", "job")
Acknowledge = namedtuple("Acknowledge", "report")
Joined = namedtuple("Joined", "info")
Farewell = namedtuple("Farewell", "info")
Fetched = namedtuple("Fetched", "request info payload")
Drop = namedtuple("Drop", "info")

# node -> master; "report" numbers what must not be lost until it is acknowledged
Join = namedtuple("Join", "info")
Heartbeat = namedtuple("Heartbeat", "info")
Done = namedtuple("Done", "report attempt first count elapsed_ns payload")
Failed = namedtuple("Failed", "report attempt first elapsed_ns info payload")
Released = namedtuple("Released", "report attempt first")
Died = namedtuple("Died", "report attempt first info")
Unfit = namedtuple("Unfit", "report attempt first info")
Output = namedtuple("Output", "info")
Fetch = namedtuple("Fetch", "request info")
Leaving = namedtuple("Leaving", "")  # a worker process: this chunk is its last
Helpers = namedtuple("Helpers", "info")  # a worker process: these have been started before its tasks, and stay
Begun = namedtuple("Begun", "attempt")  # a worker process: a task's own code begins, and has a time limit

# Wire number, how many integers lead, whether a JSON object follows, whether buffers follow.
_Layout = namedtuple("_Layout", "number integers info payload")
_LAYOUTS = {
    DefineJob: _Layout(1, 1, True, True),
    Grant: _Layout(2, 5, False, True),
    Revoke: _Layout(3, 2, False, False),
    ForgetJob: _Layout(4, 1, False, False),
    Acknowledge: _Layout(5, 1, False, False),
    Joined: _Layout(6, 0, True, False),
    Farewell: _Layout(7, 0, True, False),
    Fetched: _Layout(8, 1, True, True),
    Drop: _Layout(9, 0, True, False),
    Join: _Layout(16, 0, True, False),
    Heartbeat: _Layout(17, 0, True, False),
    Done: _Layout(18, 5, False, True),
    Failed: _Layout(19, 4, True, True),
    Released: _Layout(20, 3, False, False),
    Died: _Layout(21, 3, True, False),
    Unfit: _Layout(22, 3, True, False),
    Output: _Layout(23, 0, True, False),
    Fetch: _Layout(24, 1, True, False),
    Leaving: _Layout(25, 0, False, False),
    Begun: _Layout(26, 1, False, False),
    Helpers: _Layout(27, 0, True, False),
}
_KINDS = {layout.number: (kind, layout) for kind, layout in _LAYOUTS.items()}
_INTEGERS = [struct.Struct(">%dq" % count) for count in range(6)]


def encode(message):
    # type: (tuple) -> tuple
    """(wire number, list of buffers) of a message; its payload's buffers are not copied."""
    layout = _LAYOUTS[type(message)]
    head = [_INTEGERS[layout.integers].pack(*message[: layout.integers])]
    at = layout.integers
    if layout.info:
        text = json.dumps(message[at], separators=(",", ":")).encode("ascii")
        head += [_COUNT.pack(len(text)), text]
        at += 1
    if not layout.payload:
        return layout.number, [b"".join(head)]
    payload = message[at]
    head.append(struct.pack(">I%dQ" % len(payload), len(payload), *map(len, payload)))
    return layout.number, [b"".join(head)] + list(payload)


def decode(number, body):
    # type: (int, memoryview) -> tuple
    """The message in a frame's body; its payload's buffers are views of the body.

    Raises ProtocolError when the body is not exactly what the layout says.
    """
    if number not in _KINDS:
        raise errors.ProtocolError("unknown message number %d; another version?" % number)
    kind, layout = _KINDS[number]
    try:
        fields = list(_INTEGERS[layout.integers].unpack(body[: 8 * layout.integers].tobytes()))
        at = 8 * layout.integers
        if layout.info:
            end = at + 4 + _COUNT.unpack(body[at : at + 4].tobytes())[0]
            info = json.loads(_whole(body, at + 4, end).decode("ascii"))
            if not isinstance(info, dict):
                raise ValueError("not a JSON object")
            fields.append(info)
            at = end
        if layout.payload:
            buffers, at = _buffers(body, at)
            fields.append(buffers)
        if at != len(body):
            raise ValueError("%d bytes too many" % (len(body) - at))
    except (struct.error, ValueError, RuntimeError) as error:  # RecursionError is a RuntimeError
        raise errors.ProtocolError("malformed %s: %s" % (kind.__name__, error))
    return kind(*fields)


def too_large(what, size):
    # type: (str, int) -> errors.FrameTooLarge
    return errors.FrameTooLarge(
        "%s has %d bytes, the limit is %d; write it to a file that both sides can read, or cut it into more tasks"
        % (what, size, OBJECT_BYTES_MAX)
    )


def _whole(body, start, end):
    # type: (memoryview, int, int) -> bytes
    if end > len(body):
        raise ValueError("cut short")
    return body[start:end].tobytes()


def _buffers(body, at):
    # type: (memoryview, int) -> tuple
    count = _COUNT.unpack(_whole(body, at, at + 4))[0]
    if count > BUFFERS_MAX:
        raise ValueError("%d buffers" % count)
    start = at + 4 + 8 * count
    lengths = struct.unpack(">%dQ" % count, _whole(body, at + 4, start))
    buffers = []
    for length in lengths:
        if start + length > len(body):
            raise ValueError("cut short")
        buffers.append(body[start : start + length])
        start += length
    return buffers, start


# -- what may pass what ---------------------------------------------------------------------------

_ANYTHING = "anything"
_REPORTS = frozenset([Done, Failed, Released, Died, Unfit])


def order(message):
    # type: (tuple) -> tuple
    """(names of what this message is, while it waits; names of what it must not pass)."""
    kind = type(message)
    if kind in _REPORTS:  # an acknowledgement is for all up to a number
        return ["report"], ["report"]
    if kind is DefineJob:
        return [("job", message.job)], [("job", message.job)]  # type: ignore[attr-defined]
    if kind is Grant:
        attempt, job = message.attempt, message.job  # type: ignore[attr-defined]
        return [("attempt", attempt), ("part of", job)], [("job", job)]
    if kind is Revoke:
        return [("attempt", message.attempt)], [("attempt", message.attempt)]  # type: ignore[attr-defined]
    if kind is ForgetJob:
        job = message.job  # type: ignore[attr-defined]
        return [("job", job)], [("job", job), ("part of", job)]
    if kind is Output:
        return ["output"], ["output"]
    # What a node is told before Joined is for what it held; and a dropped object may be the one that is on its way.
    return [], [_ANYTHING] if kind in (Joined, Drop) else []


class _Outgoing(object):
    """A message that waits for its turn: its buffers, of which ``sent`` bytes have gone."""

    __slots__ = ("buffers", "message", "names", "number", "sent", "size")

    def __init__(self, message, number, buffers, size):
        # type: (tuple, int, list, int) -> None
        self.number, self.size, self.sent = number, size, 0
        self.buffers = deque(buffers)  # type: deque
        if hasattr(message, "payload"):  # what is said about it, without its arguments: they go with their buffers
            message = message._replace(payload=())  # type: ignore[attr-defined]
        self.message = message
        self.names = order(message)[0] + [_ANYTHING]

    def take(self, size):
        # type: (int) -> tuple
        """(type, buffers) of a frame with the next bytes, so many at most."""
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
        taken.extend(self.buffers)  # empty ones
        return self.number if whole else self.number + LAST, taken


# -- frames ---------------------------------------------------------------------------------------


def head(number, size):
    # type: (int, int) -> bytes
    """A frame's first bytes."""
    told = _FRAME.pack(number, size)
    return told + _CHECK.pack(binascii.crc32(told) & 0xFFFFFFFF)


class Channel(object):
    """Both directions of one proved connection: messages to buffers, bytes to messages.

    ``send`` takes a message, ``pull`` gives what is to be written next; who writes everything at once uses
    ``frame`` instead. Without tags, which is within one machine, nothing is cut.
    """

    def __init__(self, send_key, receive_key, tagged=True, frame_bytes_max=FRAME_BYTES_MAX):
        # type: (bytes, bytes, bool, int) -> None
        self._send_tag = hmac.new(send_key, None, hashlib.sha256)
        self._receive_tag = hmac.new(receive_key, None, hashlib.sha256)
        self.tagged = tagged
        self._tag_bytes = _TAG_BYTES if tagged else 0
        self._frame_bytes_max = frame_bytes_max
        self._piece_bytes = PIECE_BYTES if tagged else frame_bytes_max
        self._sent = 0
        self._received = 0
        self._buffer = bytearray()
        self._parts = bytearray()  # of the large message that is coming in
        self._ready = deque()  # type: deque # (number, buffers, size): what passes
        self._waiting = deque()  # type: deque # _Outgoing: large ones, and what must not pass them
        self._names = {}  # type: dict # of those that wait -> how many

    # -- out --------------------------------------------------------------------------------------

    def frame(self, message):
        # type: (tuple) -> list
        """The buffers that put this message on the wire, in order, in one frame."""
        number, buffers, _ = self._encoded(message)
        return self._framed(number, buffers)

    def send(self, message):
        # type: (tuple) -> None
        """It goes with the next ``pull``, or, if it is large or must not pass what waits, when its turn comes."""
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
        """The buffers to write next: all that may pass, then one piece of what waits. Empty: there is nothing."""
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
        """(message without its payload, bytes sent, bytes in all) of each that waits for its turn."""
        return [(each.message, each.sent, each.size) for each in self._waiting]

    @property
    def receiving(self):
        # type: () -> int
        """Bytes that have come of a large message that is not complete."""
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
        # type: (bytes) -> list
        """The messages completed by these bytes. Raises ProtocolError; close the connection then."""
        self._buffer += data
        messages = []
        start = 0
        buffer = self._buffer
        while len(buffer) - start >= _HEAD_BYTES:
            number, size = _FRAME.unpack_from(buffer, start)
            if buffer[start : start + _HEAD_BYTES] != head(number, size):
                raise errors.ProtocolError("the head of frame %d was changed on the way" % self._received)
            whole = size if PIECE < number < LAST else size + len(self._parts)
            if whole > self._frame_bytes_max:
                text = "a message of %d bytes is announced, limit %d" % (whole, self._frame_bytes_max)
                raise errors.FrameTooLarge(text)
            body_end = start + _HEAD_BYTES + size
            if len(buffer) < body_end + self._tag_bytes:
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
            # The views above keep the old buffer alive; what is left starts a new one.
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
            raise errors.ProtocolError("frame %d has a wrong tag: changed, replayed or cut on the way" % self._received)
        self._received += 1


def _tag(keyed, sequence, buffers):
    # type: (hmac.HMAC, int, list) -> bytes
    digest = keyed.copy()
    digest.update(_SEQUENCE.pack(sequence))
    for buffer in buffers:
        digest.update(buffer)
    return digest.digest()[:_TAG_BYTES]


# -- keys -----------------------------------------------------------------------------------------


def generate_key(random_bytes):
    # type: (bytes) -> str
    """A key in text form from 32 random bytes."""
    if len(random_bytes) != 32:
        raise ValueError("a generated key needs 32 random bytes, not %d" % len(random_bytes))
    return "mck-" + hexadecimal(random_bytes)


def oddness(authkey):
    # type: (object) -> str
    """What a key has around it that may be meant for no key (an editor's, a shell's), in words; "" if nothing."""
    key = as_bytes(authkey)
    found = []
    if key.startswith(b"\xef\xbb\xbf") or key[:2] in (b"\xff\xfe", b"\xfe\xff"):
        found.append("a byte order mark (BOM) before it")
    if key[-1:] in (b"\n", b"\r"):
        found.append("a line end behind it")
    stripped = key.strip()
    if stripped != key.strip(b"\r\n"):
        found.append("white space around it")
    if len(stripped) > 1 and stripped[:1] == stripped[-1:] and stripped[:1] in (b"'", b'"'):
        found.append("quotes around it")
    return " and ".join(found)


def warn_of_odd_key(authkey, warn):
    # type: (object, object) -> None
    """Said at once, on the side that has it: the other side's refusal cannot know."""
    odd = oddness(authkey)
    if odd:
        warn("AUTHKEY has %s, which counts: the other side's key must have it, too", odd)  # type: ignore[operator]


_STRETCHED_MAX = 8  # salts come from the other side: bounded
_stretched = {}  # type: dict # (authkey, salt, rounds) -> key


def proof_key(authkey, salt, rounds):
    # type: (bytes, bytes, int) -> bytes
    """The key that proofs are made with. Only a generated key skips the stretching, whatever HELLO says.

    Raises ProtocolError for a number of rounds out of bounds (a rogue server's wish).
    """
    if GENERATED_KEY.match(authkey):
        return hashlib.sha256(b"minimalcluster generated key" + authkey).digest()
    if not KDF_ROUNDS <= rounds <= 10 * KDF_ROUNDS:
        raise errors.ProtocolError("the other side asks for %d rounds of PBKDF2; refused" % rounds)
    # Seconds on 2.7, perhaps more than the master waits for an answer: the next try must not pay again.
    wanted = (authkey, salt, rounds)
    key = _stretched.get(wanted)
    if key is None:
        key = hashlib.pbkdf2_hmac("sha256", authkey, salt, rounds)
        if len(_stretched) >= _STRETCHED_MAX:
            _stretched.clear()
        _stretched[wanted] = key
    return key


def hkdf_sha256(material, salt, info, length):
    # type: (bytes, bytes, bytes, int) -> bytes
    """RFC 5869: extract, then expand."""
    extracted = hmac.new(salt or b"\0" * 32, material, hashlib.sha256).digest()
    block, output, counter = b"", b"", 1
    while len(output) < length:
        block = hmac.new(extracted, block + info + struct.pack("B", counter), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


# -- handshake ------------------------------------------------------------------------------------

Peer = namedtuple("Peer", "role node_id python pickle_protocol session epoch")


class _Handshake(object):
    """What both sides share. ``channel`` and ``peer`` are set once the proof has been checked."""

    def __init__(self, authkey):
        # type: (object) -> None
        self.authkey = as_bytes(authkey)
        self._key = None  # type: bytes # type: ignore[assignment] # the proof key, once the salt is known
        self.channel = None  # type: Channel | None
        self.peer = None  # type: Peer | None
        self._buffer = b""

    def _take(self, size):
        # type: (int) -> bytes | None
        if len(self._buffer) < size:
            return None
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def leftover(self):
        # type: () -> bytes
        """Bytes that followed the handshake in the same read: the first frames."""
        taken, self._buffer = self._buffer, b""
        return taken

    def _proof(self, side, transcript):
        # type: (bytes, bytes) -> bytes
        return hmac.new(self._key, side + transcript, hashlib.sha256).digest()

    def _open(self, transcript, ours, theirs, tagged):
        # type: (bytes, bytes, bytes, bool) -> None
        keys = {
            side: hkdf_sha256(self._key, transcript, b"minimalcluster frames " + side, 32) for side in (ours, theirs)
        }
        self.channel = Channel(keys[ours], keys[theirs], tagged)


def _transcript(hello, auth):
    # type: (bytes, bytes) -> bytes
    # The zeros stand where the hash of the server's TLS certificate goes.
    return hashlib.sha256(hello + auth + b"\0" * 32).digest()


def _answer(transcript, proof, fields):
    # type: (bytes, bytes, bytes) -> bytes
    # OK's own fields are covered too: nobody in between chooses a session or a pickle protocol for us.
    return hashlib.sha256(transcript + proof + fields).digest()


class ServerHandshake(_Handshake):
    """The accepting side. ``start()`` gives HELLO; ``receive(data)`` gives what to send back."""

    def __init__(self, authkey, salt, nonce, session, epoch, key=None, tagged=True, pickle_protocol=4):
        # type: (object, bytes, bytes, int, int, bytes | None, bool, int) -> None
        super(ServerHandshake, self).__init__(authkey)
        self._key = key if key is not None else proof_key(self.authkey, salt, KDF_ROUNDS)
        self._tagged = tagged
        self._session, self._epoch, self._pickle = session, epoch, pickle_protocol
        self._hello = _HELLO.pack(MAGIC, VERSION, 0 if tagged else UNTAGGED, salt, KDF_ROUNDS, nonce)

    def start(self):
        # type: () -> bytes
        return self._hello

    def receive(self, data):
        # type: (bytes) -> bytes
        """Raises ProtocolError or AuthenticationError with ``.reply``, the one byte to send before closing."""
        self._buffer += data
        if not MAGIC.startswith(self._buffer[: len(MAGIC)]):
            raise errors.ProtocolError("the peer speaks %s" % spoken(self._buffer))
        auth = self._take(_AUTH.size + _PROOF_BYTES)
        if auth is None:
            return b""
        fields, proof = auth[: _AUTH.size], auth[_AUTH.size :]
        _, version, _, role, node_id, pickle_protocol, major, minor = _AUTH.unpack(fields)
        transcript = _transcript(self._hello, fields)
        if version != VERSION:
            raise _refusal(errors.ProtocolError("the peer speaks wire version %d" % version), REFUSED_VERSION)
        if not hmac.compare_digest(self._proof(b"client", transcript), proof):
            raise _refusal(errors.AuthenticationError("the peer could not prove that it knows the key"), REFUSED_KEY)
        chosen = min(pickle_protocol, self._pickle)
        self.peer = Peer(role, node_id, (major, minor), chosen, self._session, self._epoch)
        self._open(transcript, b"server", b"client", self._tagged)
        fields = _OK.pack(self._session, self._epoch, chosen, b"")[:-_PROOF_BYTES]
        return b"\0" + fields + self._proof(b"server", _answer(transcript, proof, fields))


class ClientHandshake(_Handshake):
    """The dialling side; ``where`` ("host:port") is for the errors a person sees."""

    def __init__(self, authkey, nonce, role, node_id, python, where, pickle_protocol=4):
        # type: (object, bytes, int, bytes, tuple, str, int) -> None
        super(ClientHandshake, self).__init__(authkey)
        self._where = where
        self._fields = (nonce, role, node_id, pickle_protocol, python[0], python[1])
        self._hello = None  # type: bytes | None
        self._auth = b""
        self._transcript = b""

    def start(self):
        # type: () -> bytes
        return b""

    def receive(self, data):
        # type: (bytes) -> bytes
        """Raises ProtocolError, AuthenticationError or VersionMismatch; close the connection then."""
        self._buffer += data
        if self._hello is None:
            return self._answer_hello()
        return self._check_ok()

    def _answer_hello(self):
        # type: () -> bytes
        if not MAGIC.startswith(self._buffer[: len(MAGIC)]):
            raise errors.ProtocolError("%s speaks %s" % (self._where, spoken(self._buffer)))
        hello = self._take(_HELLO.size)
        if hello is None:
            return b""
        _, version, flags, salt, rounds, _ = _HELLO.unpack(hello)
        if version != VERSION:
            raise errors.VersionMismatch(_wire_versions(self._where, version))
        self._hello, self._flags = hello, flags
        self._key = proof_key(self.authkey, salt, rounds)
        nonce, role, node_id, pickle_protocol, major, minor = self._fields
        auth = _AUTH.pack(MAGIC, VERSION, nonce, role, node_id, pickle_protocol, major, minor)
        self._transcript = _transcript(hello, auth)
        self._auth = auth + self._proof(b"client", self._transcript)
        return self._auth

    def _check_ok(self):
        # type: () -> bytes
        if self._buffer and self._buffer[:1] != b"\0":
            raise self._refused(bytearray(self._buffer)[0])
        ok = self._take(1 + _OK.size)
        if ok is None:
            return b""
        session, epoch, pickle_protocol, answer = _OK.unpack(ok[1:])
        proof = self._auth[-_PROOF_BYTES:]
        expected = self._proof(b"server", _answer(self._transcript, proof, ok[1:-_PROOF_BYTES]))
        if not hmac.compare_digest(expected, answer):
            raise errors.AuthenticationError(
                "%s could not prove that it knows the key: not our master, or someone in the middle; "
                "nothing was sent to it" % self._where
            )
        self.peer = Peer(self._fields[1], self._fields[2], None, pickle_protocol, session, epoch)
        # UNTAGGED is part of the transcript: nobody in between can switch it on.
        self._open(self._transcript, b"client", b"server", not self._flags & UNTAGGED)
        return b""

    def _refused(self, reason):
        # type: (int) -> errors.ConnectionFailed
        if reason == REFUSED_KEY:
            odd = oddness(self.authkey)
            return errors.AuthenticationError(
                "the master at %s refused our key. Is AUTHKEY the same on both sides?%s"
                % (self._where, " Ours has %s." % odd if odd else "")
            )
        if reason == REFUSED_VERSION:
            return errors.VersionMismatch(_wire_versions(self._where, None))
        return errors.ProtocolError("%s refused us with the unknown reason %d" % (self._where, reason))


def _refusal(error, reason):
    # type: (errors.ConnectionFailed, int) -> errors.ConnectionFailed
    error.reply = struct.pack("B", reason)  # type: ignore[attr-defined]
    return error


def _wire_versions(where, theirs):
    # type: (str, int | None) -> str
    return "%s speaks wire version %s, we speak %d; install the same minimalcluster on both" % (
        where,
        "another" if theirs is None else theirs,
        VERSION,
    )


def spoken(data):
    # type: (bytes) -> str
    """What a peer that is not ours seems to speak, in words."""
    if data[:5] == b"HTTP/" or data.split(b" ")[0] in (b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"CONNECT"):
        return "HTTP"
    if data[:4] == b"SSH-":
        return "SSH"
    if data[:2] in (b"\x16\x03", b"\x15\x03"):
        return "TLS"
    if data[:3] == b"\0\0\0" and b"#" in data[3:8]:
        return "multiprocessing (an old minimalcluster?); upgrade it"
    return "another protocol (it began with %r)" % bytes(data[:8])
