"""Every incoming message is checked here, field by field, before anything else looks at it. Pure.

A member that knows the key may still be faulty. A text in place of a number, a text in place of a list, or fewer
results than tasks would raise an error later, in the loop's thread that serves all members. So a message that
breaks the table below is refused (ProtocolError), which closes the connection it came from.

Fields that the table does not name are allowed: a newer version may send more.
"""
from __future__ import absolute_import, division, print_function

from collections import namedtuple

from ..compat import integer_types, text_type
from ..errors import ProtocolError
from . import protocol

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any, Callable, Iterable  # noqa: F401 # novm

#: Senders: a node (to its master), a master (to a node, and through it to the worker processes), a worker process.
NODE, MASTER, CHILD = "a node", "a master", "a worker process"

_BIGGEST = 2**63 - 1
#: No real node has more worker processes, attempts at a time or shared objects; larger numbers would cost our memory.
SLOTS_MAX, HELD_MAX, SHARED_MAX = 1 << 16, 1 << 20, 1 << 20
#: For names, versions and the like. The text of an exception may have any length.
NAME_LETTERS_MAX = 1 << 16
#: A node that cannot start worker processes may say when it tries again. Jobs that only this node can run wait that
#: long, so the time is bounded.
STUCK_SECONDS_MAX = 60
CHAIN_MAX, NOTES_MAX, LINES_MAX = 100, 10000, 1 << 20

#: by: the senders that may send it. integers: (name, least, most) of each leading integer. info: field name -> rule of
#: the JSON object. needed: names of the fields that must be present. payload: a function that checks the buffers.
_Row = namedtuple("_Row", "by integers info needed payload")
#: holds: a function, value -> whether it is right. words: a right value, described for the error.
_Rule = namedtuple("_Rule", "holds words")


def check(message, speaker):
    # type: (tuple, str) -> None
    """Raises ProtocolError that names the field, its value, and what would be right.

    speaker: the sender, one of NODE, MASTER, CHILD.
    """
    kind = type(message)
    row = _ROWS.get(kind)
    if row is None or speaker not in row.by:
        raise ProtocolError("%s from %s" % (kind.__name__, speaker))
    at = 0
    for name, least, most in row.integers:
        if not least <= message[at] <= most:
            raise _odd(kind, name, message[at], "from %d to %d" % (least, most))
        at += 1
    if row.info is not None:
        _check_info(kind, message[at], row)
    if row.payload is not None:
        row.payload(message)


def _check_info(kind, info, row):
    # type: (type, dict, _Row) -> None
    for name, rule in row.info.items():
        if name in info:
            if not rule.holds(info[name]):
                raise _odd(kind, name, info[name], rule.words)
        elif name in row.needed:
            raise ProtocolError("a malformed %s: it has no %s" % (kind.__name__, name))


def _odd(kind, name, value, words):
    # type: (type, str, object, str) -> ProtocolError
    return ProtocolError("a malformed %s: its %s is %.80r, not %s" % (kind.__name__, name, value, words))


# -- rules ----------------------------------------------------------------------------------------


def _is_whole(value):
    # type: (object) -> bool
    return isinstance(value, integer_types) and not isinstance(value, bool)


def _whole(least=0, most=_BIGGEST):
    # type: (int, int) -> _Rule
    words = "a whole number from %d to %d" % (least, most)
    return _Rule(lambda value: _is_whole(value) and least <= value <= most, words)


def _is_number(value):
    # type: (object) -> bool
    """True also for infinity and NaN, since Python's JSON reader accepts both. (Every comparison with NaN is false.)"""
    return _is_whole(value) or isinstance(value, float)


def _text(letters_max=None):
    # type: (int | None) -> _Rule
    def holds(value):
        # type: (object) -> bool
        return isinstance(value, (str, text_type)) and (letters_max is None or len(value) <= letters_max)

    return _Rule(holds, "a text" if letters_max is None else "a text of at most %d letters" % letters_max)


def _list_of(rule, most):
    # type: (_Rule, int) -> _Rule
    def holds(value):
        # type: (object) -> bool
        return isinstance(value, list) and len(value) <= most and all(map(rule.holds, value))

    return _Rule(holds, "a list of at most %d, each %s" % (most, rule.words))


def _none_or(rule):
    # type: (_Rule) -> _Rule
    return _Rule(lambda value: value is None or rule.holds(value), "null or " + rule.words)


def _table(rules):
    # type: (dict) -> _Rule
    def holds(value):
        # type: (object) -> bool
        return isinstance(value, dict) and all(rule.holds(value[name]) for name, rule in rules.items() if name in value)

    return _Rule(holds, "an object of " + ", ".join(sorted(rules)))


_FLAG = _Rule(lambda value: isinstance(value, bool), "true or false")
_NAME = _text(NAME_LETTERS_MAX)
_SECONDS = _Rule(lambda value: _is_number(value) and value > 0, "a number of seconds greater than 0")
_STUCK = _Rule(lambda value: _is_number(value) and 0 < value <= STUCK_SECONDS_MAX, "seconds from 0 to 60")
_BYTES = _Rule(lambda value: _is_number(value) and 0 <= value <= _BIGGEST, "a finite number from 0 on")

_STREAM = _Rule(lambda value: value in ("stdout", "stderr"), "stdout or stderr")

_ONE_EXCEPTION = {
    "type": _NAME, "text": _text(), "traceback": _text(), "pickled": _FLAG, "how": _NAME,
    "notes": _list_of(_text(), NOTES_MAX),
}  # fmt: skip
_EXCEPTION = dict(_ONE_EXCEPTION, chain=_list_of(_table(_ONE_EXCEPTION), CHAIN_MAX))


def _has_results(message):
    # type: (protocol.Done) -> None
    """Raises ProtocolError unless there are as many results as the message says.

    Form E has one buffer per result, so they are counted. Form P is one pickle of all results (scalars), which is not
    opened here.
    """
    payload, count = message.payload, message.count
    form = payload[0] if payload else b""
    if len(payload) != (2 if form == b"P" else count + 1 if form == b"E" else -1):
        raise ProtocolError("a malformed Done: %d buffers for %d results" % (len(payload), count))


def _has_buffers(message):
    # type: (protocol.Grant) -> None
    if not message.payload:
        raise ProtocolError("a malformed Grant: it has no arguments")


# -- the table ------------------------------------------------------------------------------------


def _row(by, integers=(), info=None, needed=(), payload=None):
    # type: (tuple, Iterable[str | tuple], dict | None, tuple, Callable[[Any], None] | None) -> _Row
    named = [(each, 0, _BIGGEST) if isinstance(each, str) else each for each in integers]
    return _Row(by, named, info, needed, payload)


_COUNT = ("count", 1, _BIGGEST)
_ELAPSED = ("elapsed_ns", -_BIGGEST - 1, _BIGGEST)  # 2.7 measures it by the wall clock, which may be put back

_ROWS = {
    protocol.DefineJob: _row((MASTER,), ("job",), {
        "kind": _NAME, "timeout": _none_or(_SECONDS), "leave_after": _none_or(_whole(1)), "served": _none_or(_whole()),
    }),
    protocol.Grant: _row((MASTER,), ("attempt", "job", "first", _COUNT, ("careful", 0, 2)), payload=_has_buffers),
    protocol.Revoke: _row((MASTER,), ("attempt", ("kill", 0, 1))),
    protocol.ForgetJob: _row((MASTER,), ("job",)),
    protocol.Acknowledge: _row((MASTER,), ("report",)),
    protocol.Joined: _row((MASTER,), (), {"epoch": _whole()}),
    protocol.Farewell: _row((MASTER, NODE), (), {
        "refused": _text(), "odd": _FLAG, "left": _FLAG, "draining": _FLAG, "at_once": _FLAG,
    }),
    protocol.Fetched: _row((MASTER,), ("request",), {
        "found": _FLAG, "error": _text(), "name": _NAME, "filename": _none_or(_NAME), "path": _NAME,
        "names": _list_of(_NAME, SHARED_MAX), "sizes": _list_of(_whole(), protocol.BUFFERS_MAX),
    }),
    protocol.Drop: _row((MASTER,), (), {"name": _NAME}, ("name",)),
    protocol.Join: _row((NODE,), (), {
        "id": _NAME, "slots": _whole(1, SLOTS_MAX), "held": _list_of(_whole(), HELD_MAX), "hostname": _NAME,
        "pid": _none_or(_whole()), "python": _NAME, "platform": _NAME, "shared": _list_of(_NAME, SHARED_MAX),
    }, ("id", "slots", "held")),
    protocol.Heartbeat: _row((NODE,), (), {
        "starting": _whole(0, SLOTS_MAX), "trouble": _NAME, "held": _list_of(_whole(), HELD_MAX),
        "stuck": _none_or(_STUCK),
    }),
    protocol.Done: _row((NODE, CHILD), ("report", "attempt", "first", _COUNT, _ELAPSED), payload=_has_results),
    protocol.Failed: _row((NODE, CHILD), ("report", "attempt", "first", _ELAPSED), _EXCEPTION),
    protocol.Released: _row((NODE, CHILD), ("report", "attempt", "first")),
    protocol.Died: _row((NODE,), ("report", "attempt", "first"), {
        "exit": _text(), "lines": _list_of(_text(), LINES_MAX), "memory": _FLAG, "peak_memory": _BYTES,
    }),
    protocol.Unfit: _row((NODE, CHILD), ("report", "attempt", "first"), _EXCEPTION),
    protocol.Output: _row((NODE,), (), {
        "pid": _none_or(_whole()), "stream": _STREAM, "text": _text(),
    }, ("stream", "text")),
    protocol.Fetch: _row((NODE, CHILD), ("request",), {"what": _NAME, "name": _NAME, "pickle": _whole(0, 255)}),
    protocol.Leaving: _row((CHILD,)),
    protocol.Begun: _row((CHILD,), ("attempt",)),
    protocol.Helpers: _row((CHILD,), (), {"pids": _list_of(_whole(), HELD_MAX)}, ("pids",)),
}  # type: dict # fmt: skip

__all__ = ["CHILD", "MASTER", "NODE", "check"]
