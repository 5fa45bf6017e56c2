"""Attack real masters and nodes; nobody may get in, and no node be kept out: the rows 39-50 of the list of faults.

    python3 tools/attack.py                       every row
    python3 tools/attack.py --row 40              some rows
    python3 tools/attack.py --list                what there is

Rows that the suite shows are run by their tests; what needs thousands of connections, or minutes, is here. The exit
status is 1 if a row failed, else 0. Everything happens on this machine; no root is needed.
"""

import argparse
import contextlib
import os
import resource
import sys
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "tools")]

from chaos import check, run_row, run_tests  # noqa: E402

from minimalcluster import MasterNode  # noqa: E402
from minimalcluster.wire import keys, limits  # noqa: E402
from tests import support  # noqa: E402
from tests.test_end_to_end import DOUBLE, doubled  # noqa: E402

_PATH, _MEMBER, _STRANGER = ("test_attacks.%s.test_row_" % each for each in ("InThePath", "Members", "Strangers"))
_NODE, _BRAIN = "master.test_cluster.NodeMessagesTest.test_row_", "brain.test_scheduler.OutcomesTest.test_row_"
_END, _WIRE = "test_end_to_end.MasterFaults.test_row_", "wire.test_handshakes.Handshake."
#: {row: [(the attack, the tests)]}: as docs/security.md names them.
SUITE = {
    39: [
        ("no key, another key", _WIRE + "test_a_wrong_key_is_refused_with_one_byte"),
        ("a master without the key", _END + "39_rogue_master"),
        ("what a stranger learns", _END + "39_a_stranger_learns_one_byte"),
    ],
    40: [
        ("silent and slow connections", _STRANGER + "40_silent_and_slow_ones_take_nothing_from_a_node"),
        ("those that begin TLS", _STRANGER + "40_nor_do_those_that_begin_tls"),
    ],
    41: [("lengths that lie", _MEMBER + "41_length_lies")],
    42: [
        ("a pickle before the proof", _END + "42_pickle_before_the_proof"),
        ("a pickle anywhere in the frames", _MEMBER + "42_a_canary_at_every_place_of_a_stream_of_frames"),
    ],
    43: [("frames added, changed, dropped in the path, to a master", _PATH + "43_and_44_from_a_node")],
    44: [
        ("the same, to a node", _PATH + "43_and_44_from_a_master"),
        ("a session played back", _PATH + "44_a_recorded_session_is_of_no_use"),
        ("a master played back", _PATH + "44_a_master_that_is_played_back_gets_nothing"),
        ("frames twice, in another order", _MEMBER + "44_frames_of_its_own_twice_or_in_another_order"),
        ("the master's frames sent back", _MEMBER + "44_the_masters_own_frames_sent_back"),
    ],
    45: [
        ("reading along", "wire.test_tls.Messages.test_nobody_on_the_way_can_read_them"),
        ("a man in the middle; TLS taken away, added", "wire.test_tls.Middle"),
        ("an old version of TLS", "wire.test_tls.Strangers.test_an_old_version_of_tls_is_refused"),
    ],
    46: [
        ("weak keys", "master.test_master_keys.Sides.test_row_46_weak_keys_are_for_this_machine_alone"),
        ("key files of others, or open to them", "wire.test_key_files"),
        ("looking for the key in ps, environ, logs", "test_attacks.KeySeen"),
        ("a key as an argument", "command.test_cli.KeyTest.test_row_46_no_argument_is_a_key_and_none_is_shown"),
    ],
    47: [
        ("HTTP, SSH, TLS at the port", _STRANGER + "47_other_protocols_are_closed_and_named_in_a_line"),
        ("the same where the master should be", _STRANGER + "47_a_node_names_what_it_has_called"),
        ("2017's peers", _STRANGER + "47_multiprocessing_of_2017_both_ways"),
        ("random bytes at the port", _STRANGER + "47_random_bytes_end_nothing"),
        ("strangers who fill the log", "master.test_cluster.ClusterTest.test_strangers_fill_no_log"),
    ],
    48: [("looking for open ports", _END + "48_only_loopback_by_default")],
    49: [
        ("a node that asks for what is not served", "master.test_serving"),
        ("results that run code, with results='safe'", "master.test_masternode.SafeResultsTest"),
        ("the same, and arrays that lie", "payload.test_safe"),
        ("odd messages again and again", _NODE + "49_a_node_that_sends_odd_messages_again_and_again_stays_out"),
        ("answers for another node", _BRAIN + "49_what_one_node_says_of_anothers_attempt_changes_nothing"),
    ],
    50: [
        ("a member that floods", _MEMBER + "50_a_member_that_floods_holds_up_no_other"),
        ("a member with endless questions", _MEMBER + "50_no_endless_queue_of_questions"),
    ],
}  # fmt: skip

#: {row: [(the attack, function)]} of what is here.
ROWS = {}


def row(number, attack):
    def add(function):
        ROWS.setdefault(number, []).append((attack, function))
        return function

    return add


def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


# -- row 40: crowds -------------------------------------------------------------------------------

CROWD = """
import json, resource, sys
told = json.loads(sys.stdin.readline())
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
from tests.attackers import crowd
crowd(*told)
"""


def beside(port_to_told, joins_within):
    """A good node joins, and works, beside a crowd. Returns (outcome, seconds until it had joined)."""
    with MasterNode(PORT=0) as master:
        master.start_master_server(if_join_as_worker=False)
        with support.node_of(master):  # whatever is loaded once is loaded now
            support.run(master, DOUBLE, "f", range(9))
        support.wait_until(lambda: not master.list_workers(), what="the end of the first node")
        threads, before = threading.active_count(), resident_mb()
        with support.Process(CROWD, port_to_told(master.PORT)) as strangers:
            strangers.wait_for_output("\n")
            time.sleep(limits.HANDSHAKE_SECONDS + 1)  # some have been given up, and have come again
            check(threading.active_count() <= threads + 1, "%d threads more" % (threading.active_count() - threads))
            began = time.monotonic()
            with support.node_of(master) as node:
                seconds = time.monotonic() - began
                check("next try" not in node.output(), "the node did not get in at once: " + node.output())
                check(support.run(master, DOUBLE, "f", range(999)) == doubled(999), "wrong results")
            grown, crowded = resident_mb() - before, strangers.output().split()[-1]
        check(grown < 10, "the master grew by %.1f MB" % grown)
        check(seconds < joins_within, "the node joined after %.1f s" % seconds)
        return "beside %s strangers; master %+.1f MB" % (crowded, grown), seconds


@row(40, "1,000 silent connections, that come again")
def silent():
    return beside(lambda port: [port, 1000, 0.0], 2.0)


@row(40, "1,000 that say a byte a second")
def slow():
    return beside(lambda port: [port, 1000, 0.2], 2.0)


# -- row 50: floods -------------------------------------------------------------------------------

FLOOD = """
import json, struct, sys, threading
from tests.wire.independent_client import Client
port, key, what = json.loads(sys.stdin.readline())
client = Client(port, key.encode("ascii"))
client.join()
def read():
    while client._socket.recv(1 << 20):
        pass
reading = threading.Thread(target=read)
reading.daemon = True
reading.start()
count = 0
while True:
    if what == "results":
        frames = [client.message("Done", count + n, 12345, 0, 1, 1, buffers=[b"P", b"x"]) for n in range(1, 501)]
    elif what == "output":
        body = json.dumps({"stream": "stdout", "text": "x" * 100 + chr(10), "pid": 1}).encode("ascii")
        frames = [client.framed(23, struct.pack(">I", len(body)) + body) for _ in range(500)]
    else:
        frames = [client.message("Heartbeat", info={"held": []}) for _ in range(500)]
    client._socket.sendall(b"".join(frames))
    count += 500
    sys.stdout.write("%d messages" % count + chr(10))
    sys.stdout.flush()
"""


def flooded(what):
    with MasterNode(PORT=0) as master:
        master.start_master_server(if_join_as_worker=False)
        key = keys.as_key(master.AUTHKEY).decode("ascii")
        with support.Process(FLOOD, [master.PORT, key, what]) as flooding:
            flooding.wait_for_output("messages")
            before, began = resident_mb(), time.monotonic()
            with support.node_of(master, nprocs=2):
                seconds = time.monotonic() - began
                support.prepare(master, DOUBLE, "f", range(2000))
                job = support.Background(master.execute)
                support.wait_until(lambda: job.done() or any(each.done > 200 for each in master.status().jobs))
                grown, said = resident_mb() - before, flooding.output().split("\n")[-2]
                flooding.kill()
                check(job.result() == doubled(2000), "wrong results")
        check(grown < 100, "the master grew by %.1f MB" % grown)
        return "after %s; master %+.1f MB" % (said, grown), seconds


@row(50, "a member floods with heartbeats")
def heartbeats():
    return flooded("heartbeats")


@row(50, "a member floods with results that nobody asked for")
def results():
    return flooded("results")


@row(50, "a member floods with output")
def output():
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return flooded("output")


# -- the command line -----------------------------------------------------------------------------


def attacks():
    """[(row, attack, what runs it)]"""
    found = [(number, attack, lambda name=name: run_tests(name)) for number in SUITE for attack, name in SUITE[number]]
    found += [(number, attack, function) for number in ROWS for attack, function in ROWS[number]]
    return sorted(found, key=lambda each: each[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", type=int, action="append", metavar="N", help="only this row; may be given again")
    parser.add_argument("--list", action="store_true", help="list the attacks, run none")
    arguments = parser.parse_args()
    wanted = [each for each in attacks() if not arguments.row or each[0] in arguments.row]
    if not wanted:
        parser.error("no such row: %s" % arguments.row)
    if arguments.list:
        for number, attack, _ in wanted:
            print("%3d  %s" % (number, attack))
        return 0
    print("row  outcome   seconds    took  attack")
    failed = [number for number, attack, function in wanted if not run_row(number, attack, function)]
    if failed:
        print("FAILED: %s" % ", ".join(str(each) for each in failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
