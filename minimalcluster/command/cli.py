"""The command line: ``python -m minimalcluster demo``, ``... node HOST:PORT``, ``... key`` and ``... journal``."""
from __future__ import absolute_import, division, print_function

import argparse
import errno
import json
import logging
import os
import re
import signal
import sys
from contextlib import closing

from .. import __version__, errors

MYPY = False  # mypy takes it for true: names for type comments
if MYPY:
    from typing import NoReturn  # noqa: F401 # novm

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143

_KEY_HELP = """\
The key is never an argument, since every user of the machine can read arguments. It is read from, in this order:
--key-file FILE, the environment variable MINIMALCLUSTER_KEY, or --key-stdin (one line on standard input).
On the master it is MasterNode(key_file=FILE), or MasterNode.AUTHKEY. "key new FILE" makes such a file."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a node in the same way as Ctrl-C."""


def main(argv=None):
    # type: (list[str] | None) -> int
    parser = _parser()
    arguments = parser.parse_args(argv)
    if not hasattr(arguments, "run"):
        parser.print_help()
        return EXIT_USAGE
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("minimalcluster").setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except _Terminated:
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (errors.ClusterError, EnvironmentError, ValueError) as error:
        if getattr(error, "errno", None) == errno.EPIPE:  # the reader of a pipe has ended, for example head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # drop what is left in the buffer
            return EXIT_FAILED
        sys.stderr.write("minimalcluster: %s: %s\n" % (type(error).__name__, error))
        return EXIT_FAILED


class _Parser(argparse.ArgumentParser):
    """Shows no key that somebody has given as an argument: a batch system, for example, keeps what is written."""

    def error(self, message):
        # type: (str) -> NoReturn
        shown = re.sub(r"mck-[0-9a-f]+", "(a key; see --key-file and --key-stdin)", message)
        argparse.ArgumentParser.error(self, shown)


def _parser():
    # type: () -> argparse.ArgumentParser
    parser = _Parser(
        prog="python -m minimalcluster", description="Cluster computing with nothing but Python."
    )
    parser.add_argument("--version", action="version", version="minimalcluster " + __version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="see it work: a master and two nodes on this machine solve three problems",
        description="Start a master and a second node on this machine, solve three problems with them, check the "
        "answers and compare with one process. Exit status 0 only if everything checked out.",
    )
    demo.add_argument("--quick", action="store_true", help="a few seconds instead of up to half a minute")
    demo.set_defaults(run=_demo, quiet=True)

    node = commands.add_parser(
        "node",
        help="let this machine work for a master",
        description="Join the master at HOST:PORT and work until it shuts down. If the master does not run yet, "
        "wait for it.",
        epilog=_KEY_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    node.add_argument("master", metavar="HOST:PORT", type=_address, help="the address of the master")
    node.add_argument("--nprocs", type=int, metavar="N", help="worker processes (default: the number of processors)")
    node.add_argument("--key-file", metavar="FILE", help="a file that holds the master's key")
    node.add_argument("--key-stdin", action="store_true", help="read the key from standard input")
    node.add_argument("--encrypt", action="store_true", help="refuse a master that does not encrypt")
    node.add_argument("--quiet", action="store_true", help="only warnings and errors")
    node.set_defaults(run=_node)

    key = commands.add_parser(
        "key",
        help="make a key file, or compare two",
        description="Make the file that a master takes as key_file= and a node as --key-file, or compare two of them.",
    )
    for action in _actions(
        key, "",
        ("new", _key_new, "make a file with a new key that only you can read"),
        ("fingerprint", _key_fingerprint, "print what tells two generated keys apart and betrays neither"),
    ):  # fmt: skip
        action.add_argument("file", metavar="FILE", nargs="?", help="default: the file key in ~/.minimalcluster")

    journal = commands.add_parser(
        "journal",
        help="see what is in the file of journal=FILE",
        description="See what is in a journal, also while a run writes it. The file is not changed.",
    )
    for action in _actions(
        journal, "print ",
        ("show", _journal_show, "one line for each run in it, and one for the submitted calls"),
        ("export", _journal_export, "one line of JSON for each outcome in it; if a result is not JSON, its repr"),
    ):  # fmt: skip
        action.add_argument("file", metavar="FILE", help="the journal")
    return parser


def _actions(command, verb, *rows):
    # type: (argparse.ArgumentParser, str, *tuple) -> list[argparse.ArgumentParser]
    """The parsers of a command's actions. rows: (name, function, its help); verb: what the description begins with."""
    group = command.add_subparsers(title="actions", metavar="ACTION", dest="action")
    group.required = True  # 2.7 always requires one
    parsers = []
    for name, function, text in rows:
        described = verb + text + "."
        parsers.append(group.add_parser(name, help=text, description=described[0].upper() + described[1:]))
        parsers[-1].set_defaults(run=function, quiet=True)
    return parsers


def _address(text):
    # type: (str) -> tuple[str, int]
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError("%r is not of the form HOST:PORT, for example 192.168.1.5:8888" % text)
    return host.strip("[]"), int(port)


def _demo(arguments):
    # type: (argparse.Namespace) -> int
    from .demo import run

    return run(arguments.quick)


def _node(arguments):
    # type: (argparse.Namespace) -> int
    from ..compat import cpu_count
    from ..node.link import WorkerNode

    host, port = arguments.master
    nprocs = cpu_count() if arguments.nprocs is None else arguments.nprocs
    signal.signal(signal.SIGTERM, _terminated)
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:  # else SIGINT is ignored (a background process)
        signal.signal(signal.SIGINT, _interrupted)
    encrypt = True if arguments.encrypt else None
    try:
        WorkerNode(host, port, _key(arguments), nprocs, quiet=arguments.quiet, encrypt=encrypt).join_cluster()
    finally:
        for number, ours in ((signal.SIGTERM, _terminated), (signal.SIGINT, _interrupted)):
            if signal.getsignal(number) is ours:  # only the interpreter's exit is left: no traceback from there
                signal.signal(number, signal.SIG_DFL)
    return 0


def _terminated(number, frame):
    # type: (int, object) -> None
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second SIGTERM ends the process at once
    raise _Terminated


def _interrupted(number, frame):
    # type: (int, object) -> None
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # and so does a second Ctrl-C, without a traceback
    raise KeyboardInterrupt


def _key_new(arguments):
    # type: (argparse.Namespace) -> int
    from ..master import master_keys
    from ..wire import keys

    path = _key_path(arguments)
    told = "made %s (fingerprint %s). Copy it to each node, readable by you alone, and give it there as --key-file\n"
    sys.stdout.write(told % (path, keys.fingerprint(master_keys.make(path))))
    return 0


def _key_fingerprint(arguments):
    # type: (argparse.Namespace) -> int
    from ..wire import key_files, keys

    path = _key_path(arguments)
    found = keys.fingerprint(key_files.read(path))
    if not found:
        raise errors.KeyFileError("the key in %s was not generated: its fingerprint would help to guess it" % path)
    sys.stdout.write(found + "\n")
    return 0


def _key_path(arguments):
    # type: (argparse.Namespace) -> str
    from ..master.master_keys import home

    return arguments.file or os.path.join(home(), "key")


def _journal_show(arguments):
    # type: (argparse.Namespace) -> int
    from ..master.journal import Journal

    with closing(Journal(arguments.file, reading=True)) as opened:
        for number, run in enumerate(opened.runs(with_buffers=False), 1):
            done = {index for first, count, _ in run.done for index in range(first, first + count)}
            failed = {first for first, _, _ in run.failed}
            state = "ended" if run.ended else "not ended: it runs, or was killed"
            text = "run %d: %s on %d arguments: %d done, %d failed, %s\n"
            sys.stdout.write(text % (number, run.about["name"], run.about["count"], len(done), len(failed), state))
        calls = opened.calls()
        if any(calls):
            sys.stdout.write("submitted calls: %d done, %d failed\n" % tuple(map(len, calls)))
    return 0


def _journal_export(arguments):
    # type: (argparse.Namespace) -> int
    from ..compat import hexadecimal
    from ..master.journal import Journal, outcomes, shown, shown_failure

    with closing(Journal(arguments.file, reading=True)) as opened:
        for number, run in enumerate(opened.runs(), 1):
            for index, outcome in outcomes(run):
                _write_line(outcome, run=number, function=run.about["name"], task=index)
        done, failed = opened.calls()
        for key in sorted(set(done).union(failed)):
            outcome = shown(opened.result(*done[key])) if key in done else shown_failure(failed[key][0])
            _write_line(outcome, call=hexadecimal(key))
    return 0


def _write_line(outcome, **about):
    # type: (dict, **object) -> None
    line = dict(_as_json(outcome["value"]) if "value" in outcome else outcome, **about)
    sys.stdout.write(json.dumps(line, sort_keys=True) + "\n")


def _as_json(value):
    # type: (object) -> dict
    """{"result": value} if decoding its JSON gives an equal value, else {"repr": text}."""
    try:
        if json.loads(json.dumps(value, allow_nan=False)) == value:
            return {"result": value}
    except (TypeError, ValueError, OverflowError, RuntimeError):
        pass
    try:
        text = repr(value)
        json.dumps(text)
    except Exception as error:  # the class's own __repr__ may raise anything
        text = "<%s whose repr fails: %s>" % (type(value).__name__, type(error).__name__)
    return {"repr": text}


def _key(arguments):
    # type: (argparse.Namespace) -> str
    """The key from the first source that is given. Raises ValueError or KeyFileError if that cannot be read."""
    from ..node.boot import KEY_VARIABLE
    from ..wire import key_files

    variable = os.environ.pop(KEY_VARIABLE, None)  # now: no process that starts from here on inherits it
    if arguments.key_file is not None:
        return key_files.read(arguments.key_file)
    if variable is not None:
        key, source = variable.strip(), KEY_VARIABLE
    elif arguments.key_stdin:
        key, source = sys.stdin.readline().strip(), "standard input"
    else:
        raise ValueError("no key: give --key-file FILE, --key-stdin, or set %s" % KEY_VARIABLE)
    if not key:
        raise ValueError("the key from %s is empty" % source)
    return key
