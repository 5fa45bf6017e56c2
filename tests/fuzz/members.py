"""Targets of what members say: messages that are authentic, and may be odd, to a whole master and to a node's agent.

Nothing may escape but what closes the member's connection, and afterwards a good peer is served: its tasks are done.
"""
from __future__ import absolute_import, division, print_function

import contextlib

from minimalcluster import errors
from minimalcluster.brain import agent
from minimalcluster.brain.options import DEFAULTS
from minimalcluster.brain.status import ClusterStatus
from minimalcluster.compat import queue
from minimalcluster.master import cluster, serving
from minimalcluster.master.job import End, Job, Outcomes
from minimalcluster.payload import safe
from minimalcluster.wire import checks, handshakes, protocol
from tests.fuzz import wire
from tests.fuzz.choices import Choices, Wrong

FROM_NODES = [kind for kind in wire._KINDS if checks.NODE in checks._ROWS[kind].by]
FROM_MASTERS = [kind for kind in wire._KINDS if checks.MASTER in checks._ROWS[kind].by]
FROM_CHILDREN = [kind for kind in wire._KINDS if checks.CHILD in checks._ROWS[kind].by]
STEPS_MAX = 24
#: Seconds of virtual time in which a good peer is served, whatever others hold: 12 s of ADOPT_SECONDS, 10 s of silence
#: for each of two that hold a copy, 60 s of waiting for a node that is stuck, twice.
SERVED_SECONDS, TURN_SECONDS = 320, 8
#: Longer than any limit of the agent's.
AGENT_SECONDS = 1300


def say(speaker, message):
    # type: (str, tuple) -> tuple
    """As it comes out of the wire at the other end, and passes the check. Raises ProtocolError if it does not."""
    number, buffers = protocol.encode(message)
    arrived = protocol.decode(number, memoryview(b"".join(bytes(bytearray(each)) for each in buffers)))
    checks.check(arrived, speaker)
    return arrived


def must_pass(speaker, message):
    # type: (str, tuple) -> None
    """What we say ourselves, whatever others have said to us, may not cost us a connection."""
    try:
        say(speaker, message)
    except Exception as error:
        raise Wrong("it says %r: %s: %s" % (message, type(error).__name__, error))


class Log(object):
    """In the place of the log: the lines are made, and nothing of the log's own thread runs."""

    def line(self, text, *arguments):
        # type: (str, *object) -> None
        assert text % arguments if arguments else text

    debug = info = warning = line

    def log(self, level, text, *arguments):
        # type: (int, str, *object) -> None
        self.line(text, *arguments)

    def error(self, text, *arguments):
        # type: (str, *object) -> None
        raise Wrong("it logs an error of its own: " + text % arguments)

    exception = error


class Clock(object):
    def __init__(self):
        # type: () -> None
        self.now = 1000.0

    def __call__(self):
        # type: () -> float
        return self.now


@contextlib.contextmanager
def replaced(module, **names):
    # type: (object, **object) -> object
    before = {name: getattr(module, name) for name in names}
    vars(module).update(names)
    try:
        yield
    finally:
        vars(module).update(before)


# -- the master -----------------------------------------------------------------------------------


class Tasks(Job):
    """A job of so many tasks; ``results`` has what came, ``ended`` whether it is over."""

    total, closed = 0, True

    def __init__(self, total, options=DEFAULTS):
        # type: (int, object) -> None
        super(Tasks, self).__init__()
        self.total, self.options = total, options  # type: ignore[misc,assignment]
        self.results, self.ended = {}, False  # type: dict, bool

    def definition(self):
        # type: () -> tuple
        return {"kind": "source"}, [b"source"]

    def encode(self, first, count):
        # type: (int, int) -> list
        return [b"R", b"0,1"]

    def argument(self, index):
        # type: (int) -> object
        return index

    def read(self):
        # type: () -> None
        """As the user's thread: unpickle what has come."""
        while True:
            try:
                arrival = self._arrivals.get(False)
            except queue.Empty:
                return
            found = arrival[0](*arrival[1:])
            if isinstance(found, Outcomes):
                for index, value in enumerate(found.values, found.first):
                    if index in self.results or not 0 <= index < self.total:
                        raise Wrong("a second outcome of task %d, or of one that is not there" % index)
                    self.results[index] = value
            elif isinstance(found, End):
                self.ended = True


class Printed(object):
    """In the place of a printer."""

    def show(self, source, prefix, text):
        # type: (object, str, str) -> None
        hash(source)
        assert isinstance(prefix + text, str)


class Member(object):
    """A connection that has been proved, in the place of ``Connection``. ``heard`` is what the master has said to it."""

    def __init__(self, master):
        # type: (Master) -> None
        self.master, self.where, self.about = master, "10.0.0.1:5", None  # type: ignore[var-annotated]
        self.is_open, self.left_silently, self.heard = True, False, []  # type: bool, bool, list
        self.peer = handshakes.Peer(handshakes.NODE, b"i" * 16, (3, 11), 4, master._next_session, 1)
        master._next_session += 1
        master.opened(self)

    def send(self, message):
        # type: (tuple) -> None
        if self.is_open:
            must_pass(checks.MASTER, message)
            self.heard.append(message)

    def under_way(self):
        # type: () -> tuple
        return [], 0

    def close(self, error=None):
        # type: (BaseException | None) -> None
        if self.is_open:
            self.is_open = False
            self.master.closed(self, error)

    def says(self, *messages):
        # type: (*tuple) -> None
        """As the loop does: what is not a failed connection would be logged as a defect."""
        try:
            self.master.received(self, [say(checks.NODE, message) for message in messages])
        except errors.ConnectionFailed as error:
            self.close(error)

    def take(self):
        # type: () -> list
        taken, self.heard = self.heard, []
        return taken


class Master(cluster.Cluster):
    """A whole master without its thread and its port: ``turn`` is a cycle of the loop."""

    def __init__(self, clock):
        # type: (Clock) -> None
        super(Master, self).__init__(None, 0, wire.KEY, load=safe.loads)
        self._clock = clock
        self._printers = {"stdout": Printed(), "stderr": Printed()}  # type: ignore[dict-item]

    def _effect_failed(self, effect, error):
        # type: (object, BaseException) -> None
        raise error

    def turn(self, seconds):
        # type: (float) -> None
        self._clock.now += seconds
        self._work_off()
        self.step(self._clock.now)
        self._scheduler.validate()
        self._work_off()
        due = self.deadline()
        if due is not None and due <= self._clock.now:
            self.step(self._clock.now)
            if self.deadline() == due:
                raise Wrong("a step is due at %r, which has passed: the loop would spin" % due)

    def _work_off(self):
        # type: () -> None
        """The calls for the loop's thread, and what the library's thread answers."""
        while self._loop._calls or self._library._requests.qsize():
            while self._loop._calls:
                function, arguments = self._loop._calls.popleft()
                function(*arguments)
            if self._library._requests.qsize():
                self._library._requests.put(None)  # the thread's work ends there
                self._library._work()

    def shown(self):
        # type: () -> None
        """What a user may ask for."""
        found = ClusterStatus.of(self._snapshot(None))
        assert "%s" % (found,) and repr(found)
        for node in list(self._scheduler._nodes):
            self._scheduler.story(node)
        self._scheduler.snapshot()

    def close(self):
        # type: () -> None
        self._loop.close()
        self._library.close()
        self._disk.close(0.0)


def master(data):
    # type: (bytes) -> int
    """Two nodes that know the key say anything, connect again, and go; a job runs meanwhile."""
    choices, clock = Choices(data), Clock()
    with replaced(cluster, monotonic=clock, log=Log()), replaced(serving, log=Log()):
        found = Master(clock)
        try:
            return play(found, choices)
        finally:
            found.close()


def play(found, choices):
    # type: (Master, Choices) -> int
    how, count = choices.byte(), 0
    options = DEFAULTS._replace(
        chunksize=(None, 1, 3)[how % 3], retries=how >> 2 & 1, idempotent=bool(how & 8), on_error="stop" if how & 16 else "finish"
    )
    jobs = [Tasks(12, options), Tasks(5)]
    for job in jobs:
        found.submit(job)
    members = [Member(found), Member(found)]
    if not how & 32:
        for number, member in enumerate(members):
            member.says(join(u"%d" % number, slots=2))
    found.turn(0.0)
    while choices and count < STEPS_MAX:
        count += 1
        number, what = choices.below(2), choices.byte()
        member = members[number]
        if not member.is_open or what < 16:
            member.close(errors.ConnectionFailed("it went") if what & 1 else None)
            members[number] = member = Member(found)
            member.says(join(u"%d" % (number if what & 2 else 0), slots=1 + what % 3, held=held(member, choices)))
        try:
            message = aimed(wire.message(choices, FROM_NODES), members[number if what < 200 else 1 - number], choices)
            message = say(checks.NODE, message)
        except errors.ProtocolError as error:
            member.close(error)
            continue
        member.says(message)
        if what & 32:
            found.turn(0.0)
        if what & 64:
            found.turn((0.01, 0.3, 2.5, 11.0)[what >> 2 & 3])
    found.shown()
    serve(found, jobs)
    return count + 1


def join(name, slots=2, held=()):
    # type: (str, int, list | tuple) -> protocol.Join
    about = {"id": name, "slots": slots, "held": list(held), "hostname": "h", "pid": 1, "python": "%d.1.1" % PYTHON}
    return protocol.Join(about)


PYTHON = 3 if str is not bytes else 2


def attempts(member):
    # type: (Member) -> list
    return [message for message in member.heard if type(message) is protocol.Grant]


def held(member, choices):
    # type: (Member, Choices) -> list
    known = sorted(member.master._scheduler._attempts)
    return [known[choices.byte() % len(known)] for _ in range(choices.below(4)) if known]


def aimed(message, member, choices):
    # type: (tuple, Member, Choices) -> tuple
    """Mostly about an attempt that a node has: about others little happens."""
    grants = attempts(member)
    if "attempt" in message._fields and grants and choices.below(8):  # type: ignore[attr-defined]
        grant = choices.of(grants)
        message = message._replace(attempt=grant.attempt)  # type: ignore[attr-defined]
        if choices.below(4):
            message = message._replace(first=grant.first + choices.below(3))  # type: ignore[attr-defined]
        if isinstance(message, protocol.Done) and choices.below(4):
            count = 1 + choices.below(max(1, grant.count))
            message = message._replace(count=count)
            if message.payload[:1] == [b"E"]:
                message = message._replace(payload=(message.payload + [b"N."] * count)[: count + 1])
    return message


def serve(found, jobs):
    # type: (Master, list) -> None
    """A good node joins, and a new job is done; the old ones end."""
    good, job = Member(found), Tasks(7)
    found.submit(job)
    good.says(join(u"good"))
    report = 0
    for _ in range(SERVED_SECONDS // TURN_SECONDS):
        for message in good.take():
            if isinstance(message, protocol.Grant):
                report += 1
                values = [b"E"] + [b"K%c." % index for index in range(message.first, message.first + message.count)]
                good.says(protocol.Done(report, message.attempt, message.first, message.count, 5, values))
        good.says(protocol.Heartbeat({}))
        found.turn(TURN_SECONDS)
        for each in jobs + [job]:
            each.read()
        if all(each.ended for each in jobs + [job]):
            break
    if not good.is_open:
        raise Wrong("the good node was closed")
    if not job.ended or job.results != {index: index for index in range(7)}:
        raise Wrong("the good node's job came to %r, ended: %r" % (job.results, job.ended))
    if not all(each.ended for each in jobs):
        raise Wrong("a job does not end: %r" % (found._scheduler.snapshot(),))
    found.shown()


# -- a node's agent -------------------------------------------------------------------------------


class Hands(object):
    """What is around the agent: worker processes that start, and end when they are killed. ``heard``: what it has told the
    master."""

    def __init__(self, choices):
        # type: (Choices) -> None
        self.agent = agent.Agent(2, {"id": u"ab"})
        self.now, self.heard, self.finished = 1000.0, [], False
        self._choices = choices
        self.children = set()  # type: set

    def tell(self, event, seconds=0.0):
        # type: (tuple, float) -> None
        self.now += seconds
        events = [event]
        while events:
            for effect in self.agent.effects_of(events.pop(0), self.now):
                events += self._carried_out(effect)
            self.agent.validate()

    def _carried_out(self, effect):
        # type: (tuple) -> list
        kind = type(effect)
        if kind is agent.ToMaster:
            must_pass(checks.NODE, effect.message)
            self.heard.append(effect.message)
        elif kind is agent.ToChild:
            must_pass(checks.MASTER, effect.message)
        elif kind is agent.StartChild:
            self.children.add(effect.slot)
            return [agent.ChildReady(effect.slot)]
        elif kind is agent.KillChild and effect.slot in self.children:
            self.children.discard(effect.slot)
            return [agent.ChildExited(effect.slot, {"exit": "killed", "lines": []})]
        elif kind is agent.Keep:
            return [agent.Kept(effect.name, dict(effect.info, path="p"))]
        elif kind is agent.DropLink:
            return [agent.LinkDown()]
        elif kind is agent.Finished:
            self.finished = True
        elif kind is agent.Warn:
            assert "%s" % effect.text
        return []

    def said(self, speaker, message, event):
        # type: (str, tuple, object) -> bool
        """Whether it passes the check and is told; else the connection is closed, and its process is killed."""
        try:
            self.tell(event(say(speaker, message)))
        except errors.ProtocolError:
            return False
        return True


def node(data):
    # type: (bytes) -> int
    """A master and two worker processes say anything, and the link comes and goes."""
    choices, count = Choices(data), 0
    hands = Hands(choices)
    hands.tell(agent.LinkUp())
    if choices.below(4):
        for message in (protocol.Joined({}), protocol.DefineJob(1, {}, [b""]), protocol.Grant(1, 1, 0, 4, 0, [b"R", b"0,1"])):
            hands.tell(agent.MasterSaid(message))
        hands.tell(agent.TimePassed())
    while choices and count < STEPS_MAX and not hands.finished:
        count += 1
        one_step(hands, choices)
    if not hands.finished:
        serve_a_good_master(hands)
    hands.agent.snapshot()
    hands.agent.story(1)
    return count + 1


def one_step(hands, choices):
    # type: (Hands, Choices) -> None
    what, slot = choices.byte(), choices.below(2)
    if what < 100:
        message = wire.message(choices, FROM_CHILDREN)
        attempt = hands.agent._slots[slot].attempt
        if attempt is not None and "attempt" in message._fields and choices.below(8):  # type: ignore[attr-defined]
            message = message._replace(attempt=attempt, **fitting(hands.agent._held[attempt], message, choices))  # type: ignore[attr-defined]
        if slot in hands.children and not hands.said(checks.CHILD, message, lambda said: agent.ChildSaid(slot, said)):
            hands.children.discard(slot)
            hands.tell(agent.ChildExited(slot, {"exit": "it was odd", "lines": []}))
    elif what < 200:
        if not hands.said(checks.MASTER, wire.message(choices, FROM_MASTERS), agent.MasterSaid):
            hands.tell(agent.LinkDown())
    elif what < 220:
        hands.tell(agent.LinkDown())
        hands.tell(agent.LinkUp())
        hands.tell(agent.MasterSaid(protocol.Joined({})))
    elif what < 225 and slot in hands.children:
        hands.children.discard(slot)
        hands.tell(agent.ChildExited(slot, {"exit": "exit code 3", "lines": [], "memory": True}))
    elif what < 230:
        hands.tell(agent.LeftBehind(slot))
    hands.tell(agent.TimePassed(), (0.0, 0.01, 0.6, 11.0)[what % 4])


def fitting(attempt, message, choices):
    # type: (object, tuple, Choices) -> dict
    """Of the tasks that the attempt has, mostly."""
    if "first" not in message._fields or not choices.below(4):  # type: ignore[attr-defined]
        return {}
    found = {"first": attempt.next}  # type: ignore[attr-defined]
    if isinstance(message, protocol.Done):
        found.update(count=1, payload=[b"E", b"N."])
    return found


def serve_a_good_master(hands):
    # type: (Hands) -> None
    """Another master takes the node over: what it grants is done, whatever is still held."""
    hands.tell(agent.LinkDown())
    hands.tell(agent.LinkUp(), 1.0)
    joined = [message for message in hands.heard if type(message) is protocol.Join][-1]
    hands.tell(agent.MasterSaid(protocol.Joined({"epoch": 5})))
    for attempt in joined.info["held"]:
        hands.tell(agent.MasterSaid(protocol.Revoke(attempt, 1)))
    job, attempt = 2**40 + 1, 2**41 + 1
    hands.tell(agent.MasterSaid(protocol.DefineJob(job, {}, [b""])))
    hands.tell(agent.MasterSaid(protocol.Grant(attempt, job, 3, 1, 0, [b"R", b"0,1"])))
    for _ in range(AGENT_SECONDS):
        hands.tell(agent.MasterHeard())
        hands.tell(agent.TimePassed(), 1.0)
        for slot in hands.agent._slots:
            if slot.attempt == attempt:
                hands.tell(agent.ChildSaid(slot.number, protocol.Done(0, attempt, 3, 1, 5, [b"E", b"N."])))
        done = [message for message in hands.heard if type(message) is protocol.Done and message.attempt == attempt]
        if done:
            hands.tell(agent.MasterSaid(protocol.Acknowledge(done[0].report)))
            break
        if hands.finished:
            return  # it was told to leave when its tasks are over
    else:
        raise Wrong("the good master's task is not done: %r" % (hands.agent.snapshot(),))
    hands.tell(agent.MasterSaid(protocol.ForgetJob(job)))
    if hands.agent._reports:
        raise Wrong("reports are kept for ever: %r" % list(hands.agent._reports.values()))


