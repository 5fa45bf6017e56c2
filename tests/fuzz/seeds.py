"""The inputs that fuzzing begins with: ``python3 -m tests.fuzz.seeds`` writes them into ``corpus/``, the same each time.

Good frames of every message, a handshake, a journal of every record, keys, addresses, pickles: what is near to these is
what a reader has to look at twice.
"""
from __future__ import absolute_import, division, print_function

import collections
import datetime
import decimal
import fractions
import os
import pickle
import random
import struct
import sys

from minimalcluster.wire import frames, protocol
from tests.fuzz import files, wire
from tests.fuzz.targets import TARGETS
from tests.wire.members import KEY, samples
from tests.wire.test_checks import GOOD

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")


def record(number, body):
    # type: (int, bytes) -> bytes
    """As ``wire.stream_of`` reads it."""
    return struct.pack(">BH", number, len(body)) + body


def body_of(message):
    # type: (tuple) -> tuple
    number, buffers = protocol.encode(message)
    return number, b"".join(buffers)


def of_frames():
    # type: () -> dict
    found = {}
    for message in GOOD + [each for each in samples() if len(body_of(each)[1]) < 400]:
        number, body = body_of(message)
        name = "%s-%02d" % (type(message).__name__.lower(), len([each for each in found if each.startswith(type(message).__name__.lower() + "-")]))
        found[name] = b"\0\0" + record(number, body)
    number, body = body_of(GOOD[3])
    half = len(body) // 2
    in_pieces = record(frames.PIECE, body[:half]) + record(4, b"\0" * 8) + record(number + frames.LAST, body[half:])
    for how in (0, 1, 2, 3):
        for split in (0, 1, 6, 27):
            found["pieces-%d-%02d" % (how, split)] = bytes(bytearray([how, split])) + in_pieces + record(25, b"")
    found["again"] = b"\1\0" + record(4, b"\0" * 8) + record(wire.AGAIN, b"")
    found["wrong-tag"] = b"\1\1" + record(4, b"\0" * 8) + record(wire.WRONG_TAG, b"\0" * 8)
    for size in (0, 101, 2**31 - 1, 2**63, 2**64 - 1):
        found["length-%x" % size] = b"\0\0" + record(wire.RAW, frames.head(2, size))
    found["recorded"] = b"\0\0" + record(wire.RAW, b"".join(b"".join(wire.frames.Channel(b"", b"", False).frame(each)) for each in GOOD))
    return found


def of_objects():
    # type: () -> dict
    found = {}
    for at, message in enumerate(GOOD):
        number, body = body_of(message)
        layout = protocol._LAYOUTS[type(message)]
        numbers, rest = body[: 8 * layout.integers], body[8 * layout.integers :]
        data = bytes(bytearray([0, number, layout.integers])) + b"".join(b"\xff" + numbers[i : i + 8] for i in range(0, len(numbers), 8))
        size = struct.unpack(">I", rest[:4])[0] if layout.info else 0
        text, rest = (rest[4 : 4 + size], rest[4 + size :]) if layout.info else (b"", rest)
        parts = [text, b"\2", rest] if layout.info else [rest, b"\0", b""]
        found["good-%02d" % at] = data + struct.pack(">H", len(parts[0])) + parts[0] + parts[1] + struct.pack(">H", len(parts[2])) + parts[2]
    for name, text in (("nested", b"[[[["), ("nested-objects", b'{"":'), ("digits", b"1111"), ("many-lists", b"[],1")):
        found[name] = b"\0\x18\1\1" + struct.pack(">H", 4) + text + b"\1\xff\0\0"
    return found


def of_handshakes():
    # type: () -> dict
    found = {"how-%02x" % how: bytes(bytearray([how, how, 0, 0])) for how in range(0, 256, 3)}
    found["changed"] = b"\0\0" + b"\1\x20\0\1\x55" + b"\1\x02\0\1\x55"
    found["cut"] = b"\0\1" + b"\1\x20\3\0" + b"\0"
    return found


def of_journals():
    # type: () -> dict
    found = {"all": b"\0" + b"".join(bytes(bytearray([kind, 0])) for kind in (0, 1, 2, 3, 4, 5, 6, 7, 0, 3, 5))}
    found["torn"] = b"\x20\0\0\1\0\3\0\5"
    found["zeros"] = b"\x40\0\0\1\0\3\0\x20"
    found["changed"] = b"\x10\0\0\1\0\3\0\0\x50abcd"
    found["no-journal"] = b"\3" + b"minijrn0" + b"x" * 50
    found["odd-count"] = b"\0\0\0\1\0\3\4\0" + b"\xff" * 8 + b"\3\4\x08" + b"\x7f" * 8
    return found


def of_keys():
    # type: () -> dict
    key = KEY.encode("ascii")
    return {
        "key": key + b"\n", "utf8-mark": b"\xef\xbb\xbf" + key + b"\r\n", "utf16": b"\xff\xfe" + (KEY + "\r\n").encode("utf-16-le"),
        "utf16-be": b"\xfe\xff" + KEY.encode("utf-16-be"), "passphrase": b"'correct horse battery staple'\n", "empty": b"\n",
        "binary": b"\xff\x00\x80", "mark-behind-space": b" \xef\xbb\xbf" + key, "large": b"x" * 4097, "nul": b"a\0b",
    }  # fmt: skip


def of_addresses():
    # type: () -> dict
    texts = (
        b"127.0.0.1", b"::1", b"[::1]", b"localhost", b"fe80::1%lo", b"a..b", b"host:80", b"http://host/", b"[::1]:80", b" x", b"",
        b"0.0.0.0", b"127.0.0.1\0x", b"x" * 60, b"\xc3\xa4.de", b"1.2.3.4.5", b"0x7f000001", b"%", b"[", b"::ffff:1.2.3.4",
    )  # fmt: skip
    return {"%02d" % at: bytes(bytearray([at % 2])) + text for at, text in enumerate(texts)}


def of_pickles():
    # type: () -> dict
    found = {}
    values = (
        [1, 2.5, u"x", b"y", None, True, 10**30], {"a": (1, 2), "b": set([3]), "c": frozenset([4])}, datetime.datetime(2020, 1, 2),
        decimal.Decimal("1.5"), fractions.Fraction(1, 3), collections.deque([1], 3), collections.Counter("aab"), ValueError("x"),
        OSError(2, "x"), collections.defaultdict(set, {1: set([2])}), [[[]]] * 3, 1j, range(3),
    )  # fmt: skip
    for at, value in enumerate(values):
        for version in (0, 2, 4) if sys.version_info[0] > 2 else ():
            found["value-%02d-%d" % (at, version)] = b"\0" + pickle.dumps(value, version)
    found["canary"] = b"\0c" + files.CANARY.encode("ascii") + b"\nfunction\n)R."
    found["canary-class"] = b"\0(i" + files.CANARY.encode("ascii") + b"\nClass\n."
    for at in range(len(files.NAMES)):
        found["name-%02d" % at] = bytes(bytearray([1, at, 62, 62 + 0]))
    return found


def at_random(name):
    # type: (str) -> dict
    chance = random.Random(name)
    return {
        "random-%d" % number: bytes(bytearray(chance.choice((0, 1, 2, 3, chance.randrange(256), chance.randrange(256))) for _ in range(size)))
        for number, size in enumerate((10, 30, 60, 100, 150, 200, 300, 400))
    }


def main():
    # type: () -> None
    made = {
        "frames": of_frames(), "objects": of_objects(), "handshake": of_handshakes(), "journal": of_journals(), "key_file": of_keys(),
        "address": of_addresses(), "pickles": of_pickles(),
    }  # fmt: skip
    for target in TARGETS:
        folder = os.path.join(CORPUS, target)
        if not os.path.isdir(folder):
            os.makedirs(folder)
        for name, data in made.get(target, at_random(target)).items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    main()
