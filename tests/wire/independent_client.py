"""A second node, written from docs/protocol.md alone: it uses nothing of the package, and so shows what the page leaves out.

It runs the source that a job brings, in this process, for one master at a time: for tests only.
"""
from __future__ import absolute_import, division, print_function

import binascii
import hashlib
import hmac
import json
import os
import pickle
import re
import socket
import ssl
import struct
import sys

MAGIC, VERSION = b"minicl1\n", 3
#: Numbers of messages -> (name, names of integers, JSON?, buffers?): the page's table.
MESSAGES = {
    1: ("DefineJob", "job", True, True),
    2: ("Grant", "attempt job first count careful", False, True),
    3: ("Revoke", "attempt kill", False, False),
    4: ("ForgetJob", "job", False, False),
    5: ("Acknowledge", "report", False, False),
    6: ("Joined", "", True, False),
    7: ("Farewell", "", True, False),
    8: ("Fetched", "request", True, True),
    9: ("Drop", "", True, False),
    16: ("Join", "", True, False),
    17: ("Heartbeat", "", True, False),
    18: ("Done", "report attempt first count elapsed_ns", False, True),
    19: ("Failed", "report attempt first elapsed_ns", True, True),
    24: ("Fetch", "request", True, False),
}
NUMBERS = {name: number for number, (name, _, _, _) in MESSAGES.items()}


class Refused(Exception):
    """The master's reason."""


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def sha(data):
    return hashlib.sha256(data).digest()


def hkdf(material, salt, info):
    """32 bytes: RFC 5869 with one block."""
    return mac(mac(salt, material), info + b"\x01")


def stretched(key, salt, rounds):
    if key.startswith(b"\xef\xbb\xbf"):
        key = key[3:]
    key = key.strip(b" \t\n\r\x0b\x0c")
    if re.match(b"mck-[0-9a-f]{64}$", key):
        return sha(b"minimalcluster generated key" + key)
    if not 600000 <= rounds <= 6000000:
        raise Refused("%d rounds" % rounds)
    return hashlib.pbkdf2_hmac("sha256", key, salt, rounds, 32)


class Client(object):
    """One connection to a master, proved. ``hello``, ``auth`` and ``ok`` are the bytes of its handshake."""

    def __init__(self, port, key, python=sys.version_info[:2], pickle_protocol=2):
        self.node_id = os.urandom(16)
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._data = b""
        self.hello = self._take(62)
        assert self.hello[:8] == MAGIC, self.hello
        version, flags, salt, rounds = struct.unpack(">BB16sI", self.hello[8:30])
        assert version == VERSION and flags in (0, 2), (version, flags)
        self.tls = flags == 2
        certificate_hash = self._begin_tls() if self.tls else b"\0" * 32
        secret = stretched(key, salt, rounds)
        fields = MAGIC + struct.pack(">B32sB16sBBB", VERSION, os.urandom(32), 1, self.node_id, pickle_protocol, *python)
        transcript = sha(self.hello + fields + certificate_hash)
        proof = mac(secret, b"client" + transcript)
        self.auth = fields + proof
        self._socket.sendall(self.auth)
        reason = self._take(1)
        if reason != b"\0":
            self._socket.close()
            raise Refused(bytearray(reason)[0])
        self.ok = reason + self._take(45)
        self.session, self.epoch, self.pickle_protocol = struct.unpack(">QIB", self.ok[1:14])
        if not hmac.compare_digest(self.ok[14:], mac(secret, b"server" + sha(transcript + proof + self.ok[1:14]))):
            raise Refused("the master does not know the key")
        self._keys = [hkdf(secret, transcript, b"minimalcluster frames " + side) for side in (b"client", b"server")]
        self._counts = [0, 0]
        self._parts = b""

    def _begin_tls(self):
        assert not self._data
        context = ssl.SSLContext(getattr(ssl, "PROTOCOL_TLS_CLIENT", ssl.PROTOCOL_SSLv23))
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._socket = context.wrap_socket(self._socket)
        return sha(self._socket.getpeercert(True))

    def _take(self, size):
        while len(self._data) < size:
            data = self._socket.recv(1 << 16)
            if not data:
                raise EOFError("the master closed the connection")
            self._data += data
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def _tag(self, side, framed):
        count, self._counts[side] = self._counts[side], self._counts[side] + 1
        return mac(self._keys[side], struct.pack(">Q", count) + framed)[:16]

    def framed(self, kind, body):
        head = struct.pack(">BQ", kind, len(body))
        framed = head + struct.pack(">I", binascii.crc32(head) & 0xFFFFFFFF) + body
        return framed if self.tls else framed + self._tag(0, framed)

    def message(self, name, *integers, **more):
        """The frame of a message. info: the JSON object. buffers: a list."""
        number = NUMBERS[name]
        body = struct.pack(">%dq" % len(integers), *integers)
        if MESSAGES[number][2]:
            text = json.dumps(more["info"]).encode("ascii")
            body += struct.pack(">I", len(text)) + text
        if MESSAGES[number][3]:
            buffers = more["buffers"]
            body += struct.pack(">I%dQ" % len(buffers), len(buffers), *map(len, buffers)) + b"".join(buffers)
        return self.framed(number, body)

    def send(self, *message, **more):
        self._socket.sendall(self.message(*message, **more))

    def receive(self):
        """(name, {integer's name: value}, JSON object or None, buffers or None) of the next message."""
        while True:
            head = self._take(13)
            kind, size, check = struct.unpack(">BQI", head)
            assert check == binascii.crc32(head[:9]) & 0xFFFFFFFF
            body = self._take(size)
            assert self.tls or hmac.compare_digest(self._take(16), self._tag(1, head + body))
            if 0 < kind < 128:
                return self._read(kind, body)
            self._parts += body
            if kind >= 128:
                whole, self._parts = self._parts, b""
                return self._read(kind - 128, whole)

    @staticmethod
    def _read(number, body):
        name, integers, has_info, has_buffers = MESSAGES[number]
        integers = integers.split()
        at = 8 * len(integers)
        values = dict(zip(integers, struct.unpack(">%dq" % len(integers), body[:at])))
        info = buffers = None
        if has_info:
            size = struct.unpack(">I", body[at : at + 4])[0]
            info = json.loads(body[at + 4 : at + 4 + size].decode("ascii"))
            at += 4 + size
        if has_buffers:
            count = struct.unpack(">I", body[at : at + 4])[0]
            sizes = struct.unpack(">%dQ" % count, body[at + 4 : at + 4 + 8 * count])
            at, buffers = at + 4 + 8 * count, []
            for size in sizes:
                buffers.append(body[at : at + size])
                at += size
        assert at == len(body)
        return name, values, info, buffers

    def close(self):
        self._socket.close()

    # -- a node -----------------------------------------------------------------------------------

    def join(self, slots=1):
        self.send("Join", info={
            "id": binascii.hexlify(self.node_id).decode("ascii"), "slots": slots, "held": [], "hostname": "independent",
            "pid": os.getpid(), "python": "%d.%d.%d" % sys.version_info[:3], "platform": "test",
        })  # fmt: skip
        name, _, info, _ = self.receive()
        assert name == "Joined" and info["epoch"] == self.epoch, (name, info)

    def serve(self):
        """Work until the master says Farewell. Returns how many tasks were done."""
        functions, reports, done = {}, 0, 0
        while True:
            name, values, info, buffers = self.receive()
            self.send("Heartbeat", info={})
            if name == "Farewell":
                return done
            if name == "DefineJob":
                assert info["kind"] == "source", info
                module = {"__name__": info["module"]}
                exec(compile(buffers[0], info["filename"], "exec"), module)
                functions[values["job"]] = module[info["function"]]
            elif name == "Grant":
                arguments = self._arguments(buffers, values["count"])
                results = [functions[values["job"]](argument) for argument in arguments]
                reports, done = reports + 1, done + len(results)
                buffers = [b"E"] + [pickle.dumps(result, self.pickle_protocol) for result in results]
                self.send("Done", reports, values["attempt"], values["first"], len(results), 1000, buffers=buffers)

    @staticmethod
    def _arguments(buffers, count):
        form = buffers[0][:1]
        if form == b"R":
            start, step = [int(number, 16) for number in buffers[1].split(b",")]
            return [start + index * step for index in range(count)]
        return pickle.loads(buffers[1]) if form == b"P" else [pickle.loads(buffer) for buffer in buffers[1:]]
