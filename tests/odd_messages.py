"""Odd but authentic messages: each kind with a field that is not what it should be. For the simulation and test_checks.py."""
from __future__ import absolute_import, division, print_function

from minimalcluster.wire import protocol

INFINITY = float("inf")
_TOO_MANY = 10**9
_EXCEPTION = [
    ("chain", 5), ("chain", [7]), ("chain", [{"text": 5}]), ("notes", 5), ("notes", [5]), ("text", []), ("type", {}),
    ("traceback", 4), ("pickled", "no"),
]  # fmt: skip

#: kind -> (field, or key of the info; what is in it)
ODD = {
    protocol.Join: [
        ("id", []), ("id", {}), ("slots", INFINITY), ("slots", -2), ("slots", 0), ("slots", _TOO_MANY), ("slots", 1.5),
        ("slots", True), ("held", [INFINITY]), ("held", 5), ("held", [-1]), ("held", ["x"]), ("hostname", 5), ("pid", "x"),
        ("python", 3), ("shared", 5), ("shared", [5]),
    ],
    protocol.Heartbeat: [("starting", -1), ("starting", INFINITY), ("trouble", 5), ("held", 5)],
    protocol.Done: [("count", 0), ("count", -1), ("first", -1), ("attempt", -1), ("report", -1), ("payload", []), ("payload", [b"P"])],
    protocol.Failed: [("first", -1), ("attempt", -1)] + _EXCEPTION,
    protocol.Released: [("first", -1), ("attempt", -1), ("report", -1)],
    protocol.Died: [
        ("first", -1), ("lines", 5), ("lines", [5]), ("exit", 5), ("peak_memory", INFINITY), ("peak_memory", -1), ("memory", 1),
    ],
    protocol.Unfit: [("first", -1)] + _EXCEPTION,
    protocol.Output: [("text", 5), ("text", ["x"]), ("stream", "stdin"), ("stream", None), ("stream", []), ("pid", "x")],
    protocol.Fetch: [("request", -1), ("what", 5), ("name", 5), ("name", []), ("pickle", INFINITY)],
    protocol.Begun: [("attempt", -1)],
    protocol.Helpers: [("pids", 5), ("pids", [-1]), ("pids", ["x"])],
    protocol.Farewell: [("refused", 5), ("left", 1), ("draining", "x")],
    protocol.DefineJob: [("job", -1), ("timeout", -1), ("timeout", 0), ("timeout", "x"), ("timeout", float("nan")), ("leave_after", 0)],
    protocol.Grant: [("attempt", -1), ("job", -1), ("first", -1), ("count", 0), ("count", -1), ("careful", 3), ("payload", [])],
    protocol.Revoke: [("attempt", -1), ("kill", 2), ("kill", -1)],
    protocol.ForgetJob: [("job", -1)],
    protocol.Acknowledge: [("report", -1)],
    protocol.Joined: [("epoch", INFINITY), ("epoch", "x")],
    protocol.Fetched: [("request", -1), ("found", 5), ("error", 5), ("names", 5), ("sizes", [-1]), ("sizes", 5), ("path", 5)],
    protocol.Drop: [("name", 5), ("name", [])],
}  # fmt: skip


def made_odd(message, change):
    # type: (tuple, tuple) -> tuple
    name, value = change
    if name in message._fields:  # type: ignore[attr-defined]
        return message._replace(**{name: value})  # type: ignore[attr-defined]
    return message._replace(info=dict(message.info, odd=True, **{name: value}))  # type: ignore[attr-defined]


def looks_odd(message):
    # type: (tuple) -> bool
    """One that ``made_odd`` has made."""
    fields = dict(zip(message._fields, message))  # type: ignore[attr-defined]
    return (
        fields.get("info", {}).get("odd", False)
        or any(isinstance(field, int) and field < 0 for field in message)
        or fields.get("count", 1) < 1
        or fields.get("kill", 0) > 1
        or fields.get("careful", 0) > 2
        or type(message) is protocol.Done and len(fields["payload"]) < 2
        or type(message) is protocol.Grant and not fields["payload"]
    )
