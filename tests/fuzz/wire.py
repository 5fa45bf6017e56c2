"""Targets of the wire: the reader of frames, both sides of the handshake, each message and its JSON object."""
from __future__ import absolute_import, division, print_function

import hashlib
import hmac
import struct

from minimalcluster import errors
from minimalcluster.wire import checks, frames, handshakes, keys, limits, protocol
from tests.fuzz import memory
from tests.fuzz.choices import Choices, Wrong, pieces
from tests.wire.members import KEY, NONCE, OTHER_KEY, SALT, WHERE, plain

SPEAKERS = (checks.NODE, checks.MASTER, checks.CHILD)
#: In the place of a frame's type, for what is no good frame: bytes as they are; a wrong tag; the last frame again; one
#: piece of a message (which has type 0).
RAW, WRONG_TAG, AGAIN = 255, 254, 253
SMALL_LIMIT = 4096
_TAG_BYTES = 16


# -- frames ---------------------------------------------------------------------------------------


def stream_of(choices, tagged):
    # type: (Choices, bool) -> tuple
    """(bytes, number of frames): records of type, length (2 bytes) and body, each with a right head and a right tag."""
    keyed = hmac.new(b"1" * 32, None, hashlib.sha256)
    stream, last, count = [], b"", 0
    while choices:
        number, body = choices.byte(), choices.chunk()
        if number == RAW:
            stream.append(body)
        elif number == AGAIN:
            stream.append(last)
        else:
            last = frames.head(protocol._LAYOUTS[protocol.Done].number if number == WRONG_TAG else number, len(body)) + body
            if tagged:
                digest = keyed.copy()
                digest.update(struct.pack(">Q", count) + last)
                last += b"wrong tag of 16B" if number == WRONG_TAG else digest.digest()[:_TAG_BYTES]
            stream.append(last)
        count += 1
    return b"".join(stream), count


def read(parts, tagged, limit):
    # type: (list, bool, int) -> tuple
    """(messages, the error's type or None) of a reader that gets these bytes. It never keeps more than has come."""
    channel = frames.Channel(b"2" * 32, b"1" * 32, tagged, limit, local=not tagged)
    messages, came = [], 0
    for part in parts:
        came += len(part)
        try:
            messages += channel.feed(part)
        except errors.ProtocolError as error:
            return messages, type(error)
        held = len(channel._buffer) + channel.receiving
        if held > came or channel.receiving > limit:
            raise Wrong("%d bytes are kept of %d that have come, limit %d" % (held, came, limit))
    return messages, None


def frames_(data):
    # type: (bytes) -> int
    """Frames with right heads and tags around any bodies, and with what is wrong, in any parts."""
    choices = Choices(data)
    how, split = choices.byte(), choices.byte()
    tagged, limit = bool(how & 1), SMALL_LIMIT if how & 2 else protocol.FRAME_BYTES_MAX
    stream, count = stream_of(choices, tagged)
    messages, error = memory.bounded(len(stream), memory.OF_FRAMES, read, [stream], tagged, limit)
    if split % 4:
        again, error_again = read(pieces(stream, split), tagged, limit)
        # What came before a frame that is refused is given out, or not, as the bytes were read.
        if error is not error_again or (error is None and again != messages):
            raise Wrong("read at once: %r, %r; in parts: %r, %r" % (messages, error, again, error_again))
    for message in messages:
        check_message(message)
    return max(1, count)


def check_message(message):
    # type: (tuple) -> None
    """A message that was decoded can be sent on, and comes out as it was; each check of it ends or names what is odd."""
    number, buffers = protocol.encode(message)
    again = protocol.decode(number, memoryview(b"".join(bytes(bytearray(each)) for each in buffers)))
    if not same(plain(again), plain(message)):
        raise Wrong("%r became %r" % (message, again))
    for speaker in SPEAKERS:
        try:
            checks.check(message, speaker)
        except errors.ProtocolError:
            pass
    names, behind = protocol.order(message)
    hash(tuple(names) + tuple(behind))


def same(one, other):
    # type: (object, object) -> bool
    """Also if there is NaN in it, which equals nothing."""
    return type(one) is type(other) and (one == other or repr(one) == repr(other))


# -- messages -------------------------------------------------------------------------------------

_KINDS = sorted(protocol._LAYOUTS, key=lambda kind: protocol._LAYOUTS[kind].number)


def message(choices, kinds=_KINDS):
    # type: (Choices, list) -> tuple
    """A message of one of these kinds with any values: right ones mostly, so that it comes further than the check."""
    kind = choices.of(kinds)
    layout = protocol._LAYOUTS[kind]
    fields = [choices.whole() for _ in range(layout.integers)]  # type: list
    if layout.info:
        fields.append(info(choices, kind))
    if layout.payload:
        fields.append(payload(choices))
    return kind(*fields)  # type: ignore[operator]


#: Right values of the fields of info, some of each.
RIGHT = {
    "id": (u"a", u"b", u"hostile"), "slots": (1, 2, 3, 65536), "held": ([], [1], [2, 3], list(range(30))), "hostname": (u"h", u""),
    "pid": (None, 1, 2**40), "python": (u"3.11.1", u"2.7.18", u""), "platform": (u"Linux",), "shared": ([], [u"s"]),
    "starting": (0, 1, 9), "trouble": (u"", u"no memory"), "stuck": (None, 8.0, 60, 5e-324), "exit": (u"exit code 3", u""),
    "lines": ([], [u"line"], [u"%s"] * 20), "memory": (True, False), "peak_memory": (0, 10**9, 0.5),
    "stream": (u"stdout", u"stderr"), "text": (u"x\n", u"", u"\udc80"), "what": (u"module", u"share", u"script", u"resource",
    u"contents", u"code", u"version", u"share bytes"), "name": (u"0:tests", u"n", u"1:os.path", u"0:tests:fuzz/../x", u"0:a,b"),
    "pickle": (0, 2, 4, 5, 255), "pids": ([], [1, 2]), "found": (True, False), "error": (u"e",), "filename": (None, u"f"),
    "path": (u"p",), "names": ([], [u"n"]), "sizes": ([], [0, 1]), "kind": (u"source", u"by value"), "timeout": (None, 1, 0.5, 1e308),
    "leave_after": (None, 1, 2**63 - 1), "served": (None, 0), "epoch": (0, 1), "refused": (u"no",), "left": (True, False),
    "draining": (True, False), "at_once": (True, False), "type": (u"ValueError", u"TaskTimeout", u"StartError"),
    "traceback": (u"t",), "pickled": (True, False), "how": (u"cause", u"context"), "notes": ([], [u"n"]),
    "odd": (True, False), "chain": ([], [{u"type": u"K", u"text": u"", u"how": u"cause"}] * 3),
}  # type: dict # fmt: skip


def info(choices, kind):
    # type: (Choices, type) -> dict
    """Each field that the checks know, mostly; right, or anything; and one that they do not know."""
    row = checks._ROWS[kind]
    left_out, odd = choices.byte(), choices.byte()
    found = {}
    for at, name in enumerate(sorted(row.info or {})):
        if left_out and at == left_out % 16 and name not in row.needed:
            continue
        is_odd = odd and at == odd % 16
        found[u"" + name] = choices.value() if is_odd else choices.of(RIGHT[name])
    if odd > 240:
        found[u"unknown"] = choices.value()
    if left_out > 250:
        found = {choices.text(): choices.value()}
    return found


def payload(choices):
    # type: (Choices) -> list
    how = choices.below(8)
    if how == 0:
        return [b"P", choices.chunk()]
    if how == 1:
        return [b"E"] + [choices.chunk() for _ in range(choices.below(6))]
    if how == 2:
        return [choices.chunk() for _ in range(choices.below(6))]
    return [[b"P", b"\x80\x02]q\x00(K\x01K\x02e."], [b"E", b"N."], [b"R", b"0,1"], [b"P", b"]."], []][how - 3]


def objects(data):
    # type: (bytes) -> int
    """Messages of every kind with any values in their fields, and bodies that are any bytes."""
    choices, count = Choices(data), 0
    while choices and count < 32:
        count += 1
        try:
            if choices.below(4):
                number, buffers = protocol.encode(message(choices))
                body = b"".join(buffers)
            else:
                number, body = choices.byte() % 32, body_of(choices)
            check_message(protocol.decode(number, memoryview(body)))
        except errors.ProtocolError:
            pass
    return count


def body_of(choices):
    # type: (Choices) -> bytes
    """Numbers, a text in the place of the JSON object, and any bytes."""
    numbers = b"".join(struct.pack(">q", choices.whole()) for _ in range(choices.below(6)))
    text = choices.chunk()
    how = choices.below(4)
    if how == 0:
        return numbers + text
    if how == 1:  # many times the same: nested, or long
        text = b'{"a":' + text[:4] * (choices.byte() * 64) + b"}"
    return numbers + struct.pack(">I", len(text)) + text + choices.chunk()


# -- the handshake --------------------------------------------------------------------------------


def handshake(data):
    # type: (bytes) -> int
    """Each side of a handshake gets what the other one says, changed; or fields that are odd, with a right proof; or any
    bytes. It proves nothing without the key, and both sides understand each other if both have a channel."""
    choices = Choices(data)
    how, split = choices.byte(), choices.byte()
    certificate = b"c" * 32 if how & 4 else None
    server = handshakes.ServerHandshake(
        KEY, SALT, NONCE, 7, 11, tagged=not how & 8, certificate_hash=certificate, key=keys.ready_key(keys.as_key(KEY), SALT, 1)
    )
    other = how & 2
    encrypt = (None, True, False, None)[how >> 4 & 3]
    client = handshakes.ClientHandshake(
        OTHER_KEY if other else KEY, b"c" * 32, handshakes.NODE, b"i" * 16, (3, 6), WHERE, 4, encrypt, keys.ready_key
    )
    to_server, to_client = edits(choices), edits(choices)
    said, count = [client.start(), server.start()], 0
    try:
        while said[1]:
            count += 1
            said[0] = feed(client, changed(said[1], to_client), split)
            if client.wants_tls:
                said[0] += client.secured(None if how & 64 else certificate or b"x" * 32)
            if how & 128:
                said[0] = remade(client, choices, certificate or handshakes._NO_CERTIFICATE)
            said[1] = feed(server, changed(said[0], to_server), split) if said[0] else b""
            if server.channel is not None and other:
                raise Wrong("a channel for somebody without the key")
    except errors.ConnectionFailed as error:
        if len(error.reply) > 1:
            raise Wrong("a refusal of %d bytes" % len(error.reply))
        return count + 1
    if server.channel is not None and client.channel is not None and not how & 128:
        understand_each_other(server, client)
    return count + 1


def feed(side, data, split):
    # type: (object, bytes, int) -> bytes
    answer = b""
    for part in pieces(data, split):
        if side.channel is not None:  # type: ignore[attr-defined]
            side._buffer += part  # type: ignore[attr-defined]
            continue
        answer += side.receive(part)  # type: ignore[attr-defined]
        if len(side._buffer) > limits.HANDSHAKE_BYTES_MAX + len(part):  # type: ignore[attr-defined]
            raise Wrong("%d bytes are kept before the proof" % len(side._buffer))  # type: ignore[attr-defined]
    return answer


def edits(choices):
    # type: (Choices) -> list
    return [(choices.byte(), choices.below(5), choices.take(choices.below(40))) for _ in range(choices.below(4))]


def changed(data, changes):
    # type: (bytes, list) -> bytes
    for at, how, what in changes:
        at %= len(data) + 1
        if how == 0:
            data = data[:at] + what + data[at + len(what) :]
        elif how == 1:
            data = data[:at] + what + data[at:]
        elif how == 2:
            data = data[:at] + data[at + len(what) :]
        elif how == 3:
            data = data[:at]
        else:
            data = what
    return data


def remade(client, choices, certificate_hash):
    # type: (handshakes.ClientHandshake, Choices, bytes) -> bytes
    """AUTH with any fields, and a proof that covers them: what a member with another program may say."""
    if client._hello is None:
        return b""
    auth = handshakes._AUTH.pack(
        handshakes.MAGIC, choices.byte() or handshakes.VERSION, b"c" * 32, choices.byte(), choices.take(16), choices.byte(),
        choices.byte(), choices.byte(),
    )  # fmt: skip
    transcript = handshakes._transcript(client._hello, auth, certificate_hash)
    return auth + client._proof(b"client", transcript)


def understand_each_other(server, client):
    # type: (handshakes.ServerHandshake, handshakes.ClientHandshake) -> None
    said = protocol.ForgetJob(5)
    for one, other in ((server, client), (client, server)):
        if one.leftover():
            return  # bytes were slipped in behind the proofs: these are no frames, and end the connection
        if other.channel.feed(b"".join(one.channel.frame(said))) != [said]:  # type: ignore[union-attr]
            raise Wrong("the two sides do not understand each other")
