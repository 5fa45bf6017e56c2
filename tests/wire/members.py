"""Members for the tests of the wire: both sides of a handshake, both ends of a connection, a message of every kind."""
from __future__ import absolute_import, division, print_function

import unittest

from minimalcluster.wire import frames, handshakes, keys, protocol

KEY = keys.generate_key(b"k" * 32)
OTHER_KEY = keys.generate_key(b"o" * 32)
SALT, NONCE = b"s" * 16, b"n" * 32
WHERE = "there:8888"


def server_with(key=KEY, tagged=True, pickle_protocol=4, certificate_hash=None):
    return handshakes.ServerHandshake(
        key, SALT, NONCE, 7, 11, tagged=tagged, pickle_protocol=pickle_protocol, certificate_hash=certificate_hash
    )


def client_with(key=KEY, pickle_protocol=4, encrypt=False):
    return handshakes.ClientHandshake(key, b"c" * 32, handshakes.NODE, b"i" * 16, (3, 6), WHERE, pickle_protocol, encrypt)


def shaken(server, client):
    """The three messages of a handshake that succeeds."""
    hello = server.start()
    auth = client.start() + client.receive(hello)
    ok = server.receive(auth)
    client.receive(ok)
    return hello, auth, ok


def channels(frame_bytes_max=protocol.FRAME_BYTES_MAX, tagged=True):
    """Both ends of a connection that has been proved."""
    return (
        frames.Channel(b"1" * 32, b"2" * 32, tagged, frame_bytes_max, local=not tagged),
        frames.Channel(b"2" * 32, b"1" * 32, tagged, frame_bytes_max, local=not tagged),
    )


def bytes_of(channel, message):
    return b"".join(channel.frame(message))


def plain(message):
    """A received message with bytes in place of views, to compare it."""
    fields = [[view.tobytes() for view in field] if isinstance(field, list) else field for field in message]
    return type(message)(*fields)


def in_pieces(data, size=1):
    return [data[start : start + size] for start in range(0, len(data), size)]


def flips(data):
    """The data with each of its bits wrong in turn."""
    for bit in range(8 * len(data)):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        yield bit // 8, bytes(wrong)


def samples():
    """Messages of every kind, with the extremes of what a layout can hold."""
    found = []
    for kind in sorted(protocol._LAYOUTS, key=lambda kind: protocol._LAYOUTS[kind].number):
        layout = protocol._LAYOUTS[kind]
        for number, info, payload in (
            (0, {}, []),
            (-(2**63), {"a": [1, 2.5, None, True], "text": u"\u00e4\u4e2d"}, [b""]),
            (2**63 - 1, {"deep": {"er": {"est": []}}}, [b"x" * 1000, b"", b"y"]),
        ):
            fields = [number] * layout.integers + [info] * layout.info + [payload] * layout.payload
            found.append(kind(*fields))
    return found


class Canary(object):
    """A pickle that makes a file if anybody loads it."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (self._path, "w")


class Refused(unittest.TestCase):
    """Base of tests that look into an error's text (2.7 has no assertRaisesRegex)."""

    def refused(self, kind, function, *arguments):
        try:
            function(*arguments)
        except kind as error:
            self.assertIs(kind, type(error))
            return error
        raise AssertionError("%s was not raised" % kind.__name__)
