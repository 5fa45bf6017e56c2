"""Everything between two machines: the messages, the proof of the key, the frames, the sockets and their loop."""
from __future__ import absolute_import, division, print_function
