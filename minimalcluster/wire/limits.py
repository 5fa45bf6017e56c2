"""What a peer that has not proved that it knows the key may take of this process, and for how long. Pure.

Worker processes of this machine and a node's link to its master are not counted: they come by other ways (a pair of
sockets, or a listener of their own on loopback; a connection that the node has dialled).
"""
from __future__ import absolute_import, division, print_function

#: From the connection to the proof, in seconds of waiting (``Loop.waited``). SECURITY.md; a round trip around the world
#: takes 0.3 s, and a lost SYN is sent again after 1 and 3 s (RFC 6298). The same again for TLS's own handshake.
HANDSHAKE_SECONDS = TLS_SECONDS = 5.0
#: What may come before the proof. The client's part of the handshake has 93 bytes. (TLS's own has a limit in OpenSSL.)
HANDSHAKE_BYTES_MAX = 1024
#: How many connections without a proof one listener keeps. Beyond that, it closes the oldest one of the address that
#: has most of them. With 1,000 new strangers a second, each connection has 0.25 s: more than a round trip. With 64 it
#: would be 0.06 s, and no good node from across the ocean would get in. There is no fixed number for one address: 100
#: nodes of a batch job come from one machine, a whole laboratory from behind one router.
HALF_OPEN_MAX = 256
#: Nor do they take more than this part (a quarter) of the descriptors that the process may have: with TLS on 2.7 each
#: takes three.
HALF_OPEN_SHARE = 4
#: New connections per cycle, so that endless connections of strangers do not keep the loop from its other work.
ACCEPTS_PER_CYCLE = 64
#: How long a listener pauses when the process has no descriptor or memory left (docs/reliability.md, row 22).
PAUSE_SECONDS = 1.0
#: A node loses its connection with each message that no node sends. With so many it is not let in again: it would take
#: tasks, lose them and come back for ever. One may be a flipped bit in its memory; three are a faulty node.
ODD_MESSAGES_MAX = 3
#: So many nodes are remembered for that.
ODD_NODES_MAX = 1000
#: Of refused connections, so many are logged one by one in so many seconds; the others are counted in one line.
STRANGERS_LOGGED_MAX, STRANGERS_SECONDS = 20, 60.0
