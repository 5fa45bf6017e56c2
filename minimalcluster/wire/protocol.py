"""The messages: what each consists of, how it becomes bytes and back, and which may overtake which. Pure.

* A message is plain data: signed 64-bit integers, then one JSON object if its layout has one, then opaque buffers if
  its layout has them. No pickle is read here.
* A JSON object is nested ``NESTED_MAX`` deep at most, and its numbers have ``DIGITS_MAX`` digits. Else a
  message that could just be read would be a RecursionError where it is sent on, and a long number hold the loop.
* ``order`` says which messages must not overtake each other: a grant stays behind its job's definition, a revocation
  behind its grant, the end of a job behind both, a report behind earlier reports, Joined and Drop behind everything.
"""
from __future__ import absolute_import, division, print_function

import json
import struct
from collections import namedtuple

from .. import errors
from ..pieces import Pieces

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any  # noqa: F401 # novm

FRAME_BYTES_MAX = 2 << 30
#: The limit of one argument or result. It is smaller than a frame, because a frame has other parts as well.
OBJECT_BYTES_MAX = FRAME_BYTES_MAX - (1 << 20)
BUFFERS_MAX = 1 << 24
#: The deepest that we send is an exception's chain: object, list, object, list.
NESTED_MAX = 16
#: We send numbers of 64 bits. Before 3.11, reading a number takes time that grows with the square of its digits.
DIGITS_MAX = 400

_COUNT = struct.Struct(">I")

# master -> node (and on to its worker processes)

DefineJob = namedtuple("DefineJob", "job info payload")
#: Grant's ``careful``, if it is not 0: the tasks run one by one, so that a death blames one of them; and nothing else
#: runs on the node meanwhile.
ONE_BY_ONE, EXCLUSIVE = 1, 2
Grant = namedtuple("Grant", "attempt job first count careful payload")
Revoke = namedtuple("Revoke", "attempt kill")
ForgetJob = namedtuple("ForgetJob", "job")
Acknowledge = namedtuple("Acknowledge", "report")
Joined = namedtuple("Joined", "info")
Farewell = namedtuple("Farewell", "info")
Fetched = namedtuple("Fetched", "request info payload")
Drop = namedtuple("Drop", "info")

# node -> master. A message with the field "report" must not be lost: the node keeps it until the master acknowledges
# its number.
Join = namedtuple("Join", "info")
Heartbeat = namedtuple("Heartbeat", "info")
Done = namedtuple("Done", "report attempt first count elapsed_ns payload")
Failed = namedtuple("Failed", "report attempt first elapsed_ns info payload")
Released = namedtuple("Released", "report attempt first")
Died = namedtuple("Died", "report attempt first info")
Unfit = namedtuple("Unfit", "report attempt first info")
Output = namedtuple("Output", "info")
Fetch = namedtuple("Fetch", "request info")
# worker process -> node
Leaving = namedtuple("Leaving", "")  # this chunk is the last one of this worker process
Helpers = namedtuple("Helpers", "info")  # processes that an initializer or a module started: they may stay
Begun = namedtuple("Begun", "attempt")  # the code of a task with a time limit begins now

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
    """(wire number, list of buffers) of a message. The payload's buffers are not copied."""
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
    buffers = [b"".join(head)]
    for buffer in payload:
        if type(buffer) is Pieces:
            buffers += buffer.pieces
        else:
            buffers.append(buffer)
    return layout.number, buffers


def decode(number, body):
    # type: (int, memoryview) -> tuple
    """The message in a frame's body. The payload's buffers are views of the body.

    number: the message's number on the wire. Raises ProtocolError if it is unknown or the body does not fit its layout.
    """
    if number not in _KINDS:
        raise errors.ProtocolError("unknown message number %d; another version?" % number)
    kind, layout = _KINDS[number]
    try:
        fields = list(_INTEGERS[layout.integers].unpack(body[: 8 * layout.integers].tobytes()))
        at = 8 * layout.integers
        if layout.info:
            end = at + 4 + _COUNT.unpack(body[at : at + 4].tobytes())[0]
            fields.append(_object(_whole(body, at + 4, end)))
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


def _object(text):
    # type: (bytes) -> dict
    info = json.loads(text.decode("ascii"), parse_int=_integer)
    if not isinstance(info, dict):
        raise ValueError("not a JSON object")
    if text.count(b"{") + text.count(b"[") > NESTED_MAX and _is_nested(info):
        raise ValueError("nested deeper than %d" % NESTED_MAX)
    return info


def _integer(digits):
    # type: (str) -> int
    if len(digits) > DIGITS_MAX:
        raise ValueError("a number of %d digits" % len(digits))
    return int(digits)


def _is_nested(info):
    # type: (dict) -> bool
    """Whether it is nested deeper than NESTED_MAX. It goes through it level by level, without recursion."""
    level = [info]  # type: list[Any]
    for _ in range(NESTED_MAX):
        parts = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for part in parts for each in part if isinstance(each, (dict, list))]
        if not level:
            return False
    return True


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


# -- which message may overtake which -------------------------------------------------------------

#: A name that every waiting message has.
ANYTHING = "anything"
_REPORTS = frozenset([Done, Failed, Released, Died, Unfit])


def order(message):
    # type: (tuple) -> tuple
    """(names that this message has while it waits; names of waiting messages that it must not overtake)."""
    kind = type(message)
    if kind in _REPORTS:  # in order, since one acknowledgement covers all reports up to its number
        return ["report"], ["report"]
    if isinstance(message, DefineJob):
        return [("job", message.job)], [("job", message.job)]
    if isinstance(message, Grant):
        attempt, job = message.attempt, message.job
        return [("attempt", attempt), ("part of", job)], [("job", job)]
    if isinstance(message, Revoke):
        return [("attempt", message.attempt)], [("attempt", message.attempt)]
    if isinstance(message, ForgetJob):
        job = message.job
        return [("job", job)], [("job", job), ("part of", job)]
    if isinstance(message, Output):
        return ["output"], ["output"]
    # Joined: messages before it are about attempts that the node already held. Drop: the object to drop may itself be
    # among the messages that still wait.
    return [], [ANYTHING] if kind in (Joined, Drop) else []
