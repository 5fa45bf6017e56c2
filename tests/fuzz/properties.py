"""Rules that hold for all values, as tests: Hypothesis draws examples, the same each time. ``test_properties.py`` has them."""
from __future__ import absolute_import, division, print_function

import unittest

from hypothesis import HealthCheck, Phase, given, settings, strategies

from minimalcluster import errors
from minimalcluster.compat import as_bytes, native
from minimalcluster.payload import safe, values
from minimalcluster.wire import addresses, checks, frames, keys, protocol
from tests.fuzz import files, memory, wire
from tests.fuzz.targets import TARGETS
from tests.wire.members import channels, plain
from tests.wire.test_checks import GOOD

#: Bounded, and the same in each run: what else is to be found is for ``make fuzz``.
FEW = settings(
    max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)  # fmt: skip

JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(strategies.text(), inner, max_size=4),
    max_leaves=12,
)
NUMBERS = strategies.integers(-(2**63), 2**63 - 1)
BUFFERS = strategies.lists(strategies.binary(max_size=40), max_size=5)
PLAIN = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats(allow_nan=False) | strategies.text()
    | strategies.binary() | strategies.dates() | strategies.datetimes() | strategies.timedeltas() | strategies.fractions()
    | strategies.decimals(allow_nan=False) | strategies.uuids() | strategies.complex_numbers(allow_nan=False),
    lambda inner: strategies.lists(inner, max_size=4) | strategies.tuples(inner, inner) | strategies.dictionaries(strategies.text(), inner, max_size=4)
    | strategies.sets(strategies.integers() | strategies.text(), max_size=4) | strategies.frozensets(strategies.text(), max_size=4),
    max_leaves=12,
)  # fmt: skip


@strategies.composite
def messages(draw):
    """A message of any kind, its fields any values that the wire can carry."""
    kind = draw(strategies.sampled_from(wire._KINDS))
    layout = protocol._LAYOUTS[kind]
    fields = [draw(NUMBERS) for _ in range(layout.integers)]
    if layout.info:
        names = strategies.sampled_from(sorted(checks._ROWS[kind].info or {})) if checks._ROWS[kind].info else strategies.text()
        fields.append(draw(strategies.dictionaries(names | strategies.text(), JSON, max_size=4)))
    return kind(*fields + ([draw(BUFFERS)] if layout.payload else []))


def told(message):
    """It is taken, and can be sent on; or it is refused by name."""
    number, buffers = protocol.encode(message)
    try:
        arrived = protocol.decode(number, memoryview(b"".join(buffers)))
    except errors.ProtocolError:
        return
    wire.check_message(arrived)


class Wire(unittest.TestCase):
    @FEW
    @given(messages())
    def test_a_message_arrives_as_it_was_or_is_refused_by_name(self, message):
        told(message)

    @FEW
    @given(strategies.lists(messages(), max_size=5), strategies.lists(strategies.integers(1, 60), min_size=1), strategies.booleans())
    def test_messages_arrive_in_any_parts(self, said, sizes, tagged):
        ours, theirs = channels(tagged=tagged)
        stream, got, at = b"".join(b"".join(ours.frame(message)) for message in said), [], 0
        while at < len(stream):
            size = sizes[at % len(sizes)]
            got += theirs.feed(stream[at : at + size])
            at += size
        self.assertEqual(repr(said), repr([plain(message) for message in got]))

    @FEW
    @given(messages(), strategies.integers(0), strategies.integers(1, 255))
    def test_no_changed_byte_of_a_tagged_frame_passes(self, message, at, change):
        ours, theirs = channels(frame_bytes_max=1 << 14)
        data = bytearray(b"".join(ours.frame(message)))
        data[at % len(data)] ^= change
        with self.assertRaises(errors.ProtocolError):
            theirs.feed(bytes(data) + b"\0" * (1 << 14))

    @FEW
    @given(strategies.sampled_from(GOOD), strategies.data())
    def test_a_good_message_with_any_field_is_taken_or_refused_by_name(self, message, data):
        name = data.draw(strategies.sampled_from(message._fields or ("none",)))
        if name == "info":
            key = data.draw(strategies.sampled_from(sorted(message.info)) | strategies.text())
            message = message._replace(info=dict(message.info, **{key: data.draw(JSON)}))
        elif name == "payload":
            message = message._replace(payload=data.draw(BUFFERS))
        elif name != "none":
            message = message._replace(**{name: data.draw(NUMBERS)})
        told(message)

    def test_memory_is_in_proportion_to_the_bytes(self):
        number = protocol._LAYOUTS[protocol.Fetched].number
        before, memory.every = memory.every, 1
        try:
            for text, buffers in (
                (b'{"a":[' + b"{}," * 30000 + b"0]}", b"\0\0\0\0"), (b'{"a":[' + b"[]," * 30000 + b"0]}", b"\0\0\0\0"),
                (b'{"a":[' + b"9e9," * 30000 + b"0]}", b"\0\0\0\0"), (b"{" + b",".join(b'"%d":0' % each for each in range(20000)) + b"}", b"\0\0\0\0"),
                (b"{}", b"\0\0\x75\x30" + b"\0" * 8 * 30000), (b"{}", b"\0\xff\xff\xff"), (b"[" * 90000, b""), (b'"' + b"\\u4e2d" * 15000, b""),
            ):  # fmt: skip
                body = b"\0" * 8 + len(text).to_bytes(4, "big") + text + buffers
                stream = frames.head(number, len(body)) + body
                memory.bounded(len(stream), memory.OF_FRAMES, wire.read, [stream], False, protocol.FRAME_BYTES_MAX)
        finally:
            memory.every = before


class Values(unittest.TestCase):
    @FEW
    @given(PLAIN)
    def test_plain_values_pass_the_safe_unpickler(self, value):
        again = safe.loads(values.dumps(value))
        self.assertEqual(value, again)
        self.assertIs(type(value), type(again))

    @FEW
    @given(strategies.text(min_size=1) | strategies.binary(min_size=1))
    def test_a_key_is_the_same_when_it_is_read_again(self, key):
        try:
            once = keys.as_key(key)
        except UnicodeEncodeError:
            return  # half of a pair of surrogates
        self.assertEqual(once, keys.as_key(once))
        self.assertEqual(once, keys.as_key(b"\xef\xbb\xbf" + as_bytes(key) + b"\r\n"))

    @FEW
    @given(strategies.text() | strategies.from_regex(r"\A[0-9a-f:.\[\]%a-z]{1,30}\Z"))
    def test_a_host_stays_what_it_is(self, text):
        try:
            host = addresses.checked_host(text, "IP")
        except ValueError as error:
            self.assertIn("IP", native(str(error)))
            return
        self.assertEqual(host, addresses.checked_host(host, "IP"))


class Targets(unittest.TestCase):
    """What a fuzzer does all night, for a moment."""

    @classmethod
    def tearDownClass(cls):
        files.remove_folder()


def _add(name):
    @settings(FEW, max_examples=8)
    @given(strategies.binary(max_size=TARGETS[name].longest // 4))
    def test(self, data):
        TARGETS[name].function(data)

    setattr(Targets, "test_" + name, test)


for _name in TARGETS:
    _add(_name)
