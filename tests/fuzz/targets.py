"""The table of targets: what a fuzzer calls with bytes; each returns how many frames, messages or records these were."""
from __future__ import absolute_import, division, print_function

from collections import namedtuple

from tests.fuzz import files, members, wire

#: share: of all frames, the parts of 1,000 that this one gets. longest: bytes of an input.
Target = namedtuple("Target", "function share longest")

TARGETS = {
    "frames": Target(wire.frames_, 600, 1024),
    "objects": Target(wire.objects, 320, 512),
    "handshake": Target(wire.handshake, 50, 256),
    "master": Target(members.master, 2, 512),
    "node": Target(members.node, 8, 512),
    "journal": Target(files.journal_, 3, 512),
    "key_file": Target(files.key_file, 5, 4200),
    "address": Target(files.address, 5, 64),
    "pickles": Target(files.pickles, 7, 512),
}
