"""A machine that works for a master on another machine: ``WorkerNode``, which connects again when the link is lost."""
from __future__ import absolute_import, division, print_function

import logging
import os
import random
import socket
import sys
import threading

from .. import errors
from ..brain import agent as brain
from ..compat import PICKLE_PROTOCOL, cpu_count, forbid_patched_threads, integer_types, monotonic, native
from ..logs import log
from ..wire import checks, encryption, handshakes, key_files, keys, protocol
from ..wire.addresses import checked_host, checked_port, dial, in_words, resolve
from ..wire.connection import Connection
from ..wire.loop import Loop
from . import boot
from .node import Node

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import Any  # noqa: F401 # novm

RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.2, 10.0
#: How long to wait for an answer at an address while the name has more of them, so that the next one is tried soon.
FIRST_PATIENCE_SECONDS = 2.0
#: A master that many nodes join at once may answer late. After three tries without an answer there is no master.
UNANSWERED_MAX = 3
#: How long a node that ends waits until its last messages are sent, and how often it looks.
SEND_SECONDS, SENT_LOOK_SECONDS = 2.0, 0.02


class WorkerNode(object):
    """A machine that works for a master.

    IP: the master's name or address. PORT, AUTHKEY: the values that the master was started with. nprocs: the number of
    worker processes; a number below 1 or above the number of processors becomes the number of processors, with a
    warning; None: as many as processors. quiet: connecting and losing the connection are logged as DEBUG, not as INFO
    and WARNING. key_file: in place of AUTHKEY, the path of a file that holds it. encrypt: True refuses a master that
    does not encrypt, False one that does. ssl_context: the master's certificate must satisfy it.

    Raises TypeError or ValueError for arguments that cannot be right, KeyFileError, and StateError under gevent or
    eventlet.
    """

    def __init__(
        self, IP, PORT, AUTHKEY=None, nprocs=None, quiet=False, key_file=None, encrypt=None, ssl_context=None
    ):
        # type: (str, int, object, int | None, bool, str | None, bool | None, Any) -> None
        forbid_patched_threads()
        self.PORT = checked_port(PORT, "PORT", least=1)
        processors = cpu_count()
        nprocs = processors if nprocs is None else nprocs
        if not isinstance(nprocs, integer_types) or isinstance(nprocs, bool):
            raise TypeError("nprocs must be a whole number, not %r" % (nprocs,))
        self.IP, self.quiet = checked_host(IP, "IP"), quiet
        encryption.check(encrypt, ssl_context)
        self._encrypt, self._ssl_context = encryption.of_client(encrypt, ssl_context), ssl_context
        key_files.check_one(AUTHKEY, key_file)
        self._authkey = AUTHKEY if key_file is None else key_files.read(key_file)
        if self._authkey is None or not keys.as_key(self._authkey):
            raise ValueError("a node needs its master's key: give AUTHKEY or key_file")
        keys.warn_if_odd(self._authkey, log.warning)
        if not 1 <= nprocs <= processors:
            log.warning("nprocs=%d changed to %d, the processors that this process may use", nprocs, processors)
            nprocs = processors
        self.nprocs = nprocs

    def join_cluster(self):
        # type: () -> None
        """Work until the master shuts down, then return.

        If the master is not there yet, or the connection is lost, this connects again, at each address of the master,
        after random times that grow up to 10 s. Raises AuthenticationError (another key), VersionMismatch (Python 2
        with 3), EncryptionError (one side asks for encryption, the other has none), ProtocolError, HandshakeTimeout
        (three connections in a row without an answer: no master is there), and StartError (no Python for worker
        processes).
        """
        boot.executable()
        _Member(self).run()


class _Member(object):
    """One ``join_cluster``: the loop, the node and the link that reconnects."""

    def __init__(self, worker):
        # type: (WorkerNode) -> None
        self._worker = worker
        self._where = in_words((worker.IP, worker.PORT))
        self._secured = encryption.client(worker.IP, worker._ssl_context)
        self._loop = Loop()
        self._node = Node(self._loop, worker.nprocs, self._send, self._drop, self._on_finished)
        self._connection = None  # type: Connection | None
        self._retry_at = 0.0  # type: float | None # None while there is a connection, or one is being made
        self._addresses = []  # type: list # the master's addresses that were not tried yet
        self._failures = []  # type: list # the errors of the addresses that were tried
        self._dialled = ()  # type: tuple # the address that was tried last
        self._stretched_for = []  # type: list # addresses that have asked for a stretched key in this round
        self._tries = 0  # since the last connection
        self._was_connected = False
        self._unanswered = 0  # tries without an answer
        self._ending = False  # the master has sent Farewell: the end of the connection is not a loss
        self._error = None  # type: BaseException | None
        self._refusal = errors.VersionMismatch  # type: type # the error, if the master refuses us

    def run(self):
        # type: () -> None
        self._loop.join(self)
        try:
            self._loop.run()
        except KeyboardInterrupt:
            self._leave_now()
            raise
        finally:
            self._loop.leave(self)
            self._loop.close()
        if self._error is not None:
            raise self._error

    def _leave_now(self):
        # type: () -> None
        """End at once: tell the master, and kill the worker processes."""
        self._send(protocol.Farewell({"left": True}))
        if self._connection is not None:
            self._connection.write()
        self._node.leave_now()

    # -- as participant of the loop ---------------------------------------------------------------

    def step(self, now):
        # type: (float) -> None
        if self._retry_at is not None and now >= self._retry_at:
            self._dial()
        self._node.step(now)

    def deadline(self):
        # type: () -> float | None
        moments = [moment for moment in (self._retry_at, self._node.deadline()) if moment is not None]
        return min(moments) if moments else None

    # -- the link ---------------------------------------------------------------------------------

    def _dial(self):
        # type: () -> None
        self._retry_at, self._failures, self._stretched_for = None, [], []
        try:
            self._addresses = resolve(self._worker.IP, self._worker.PORT)
        except errors.ConnectionFailed as error:
            self._try_again(error)
            return
        self._dial_next()

    def _dial_next(self):
        # type: () -> None
        while self._addresses:
            found = self._dialled = self._addresses.pop(0)
            patience = FIRST_PATIENCE_SECONDS if self._addresses else None
            where = in_words(found[4]) if self._addresses or self._failures else self._where
            handshake = handshakes.ClientHandshake(
                self._worker._authkey, os.urandom(32), handshakes.NODE, self._node.id, sys.version_info[:2], where,
                PICKLE_PROTOCOL, derive=keys.ready_key, encrypt=self._worker._encrypt,
            )  # fmt: skip
            try:
                sock = dial(found)
            except errors.ConnectionFailed as error:
                self._failures.append(error)
                continue
            try:
                self._connection = Connection(
                    self._loop, sock, handshake, self, where, True, patience, self._secured
                )
                return
            except (OSError, socket.error) as error:
                sock.close()
                self._failures.append(errors.ConnectionFailed("cannot connect to %s: %s" % (where, error)))
        self._all_failed()

    def _all_failed(self):
        # type: () -> None
        """No address worked. End with an error that another try cannot mend; for any other error, try again."""
        fatal = [error for error in self._failures if self._is_fatal(error)]
        if fatal:
            self._error = fatal[0]
            self._loop.stop()
            return
        text = "; ".join(map(str, self._failures))
        if self._where not in text:  # name the host as the user did
            text = "%s: %s" % (self._where, text)
        self._try_again(errors.ConnectionFailed(text))

    def _is_fatal(self, error):
        # type: (BaseException) -> bool
        if isinstance(error, errors.HandshakeTimeout):
            return self._has_no_master()
        fatal = (errors.AuthenticationError, errors.VersionMismatch, errors.EncryptionError, errors.ProtocolError)
        return isinstance(error, fatal)

    def _try_again(self, error):
        # type: (BaseException | None) -> None
        self._tries += 1
        longest = min(RETRY_SECONDS_MAX, RETRY_SECONDS_MIN * 2 ** min(self._tries, 10))
        wait = random.uniform(RETRY_SECONDS_MIN / 2, longest)
        self._retry_at = monotonic() + wait
        level = logging.DEBUG if self._worker.quiet else logging.WARNING
        log.log(level, "%s; next try in %.1f s", error, wait)

    def opened(self, connection):
        # type: (Connection) -> None
        self._tries = 0
        self._was_connected = True
        log.log(logging.DEBUG if self._worker.quiet else logging.INFO, "connected to the master at %s", self._where)
        self._node.tell(brain.LinkUp())

    def received(self, connection, messages):
        # type: (Connection, list) -> None
        self._node.tell(brain.MasterHeard())
        for message in messages:
            checks.check(message, checks.MASTER)
            if isinstance(message, protocol.Farewell):
                self._ending = True
                self._refusal = errors.ProtocolError if message.info.get("odd") else errors.VersionMismatch
            self._node.tell(brain.MasterSaid(message))

    def closed(self, connection, error):
        # type: (Connection, BaseException | None) -> None
        self._connection = None
        if error is None or self._ending:
            return
        if connection.peer is not None:
            self._node.tell(brain.LinkDown())
            self._try_again(error)
        elif isinstance(error, keys.NotStretched) and self._dialled not in self._stretched_for:
            self._stretch(error)
        else:
            self._failures.append(error)
            self._dial_next()

    def _stretch(self, wanted):
        # type: (keys.NotStretched) -> None
        """Stretch the key, then dial the same address again. On a slow machine that takes longer than the master waits
        for an answer, and than worker processes can wait for this loop: so no connection is open meanwhile, and a
        thread does it. Once a round: a server that wants another salt each time does not keep this machine busy."""
        self._stretched_for.append(self._dialled)

        def stretch():
            # type: () -> None
            keys.proof_key(keys.as_key(self._worker._authkey), wanted.salt, wanted.rounds)
            self._loop.call(self._dial_again)

        thread = threading.Thread(target=stretch, name="minimalcluster-key")
        thread.daemon = True
        try:
            thread.start()
        except (RuntimeError, threading.ThreadError) as error:
            self._try_again(errors.ConnectionFailed("the key cannot be stretched: %s" % error))

    def _dial_again(self):
        # type: () -> None
        self._addresses.insert(0, self._dialled)
        self._dial_next()

    def _has_no_master(self):
        # type: () -> bool
        """Whether to give up: no connection ever worked, and UNANSWERED_MAX tries had no answer."""
        self._unanswered += 1
        return not self._was_connected and self._unanswered >= UNANSWERED_MAX

    def _send(self, message):
        # type: (tuple) -> None
        if self._connection is not None:
            self._connection.send(message)

    def _drop(self, reason):
        # type: (str) -> None
        if self._connection is not None:
            self._connection.close(errors.ConnectionFailed(reason))

    def _on_finished(self, reason, refused):
        # type: (str, str | None) -> None
        if refused:
            self._error = self._refusal(native(refused))
        self._stop_when_sent(monotonic() + SEND_SECONDS)

    def _stop_when_sent(self, until):
        # type: (float) -> None
        """Wait until the last messages are sent, up to the time ``until``: tasks may just have printed something."""
        if self._connection is not None and monotonic() < until:
            self._connection.write()
            if self._connection is not None and self._connection.has_unsent:
                self._loop.later(SENT_LOOK_SECONDS, lambda: self._stop_when_sent(until))
                return
        self._loop.stop()
