"""Sends many queries over UDP, some at a time on each of a few sockets, and prints how many were answered well.

Input: a line with the server, then one line with a query in hexadecimal each.
"""

import selectors
import socket
import sys

SOCKETS = 16
AT_ONCE = 4  # on each socket

server, *queries = sys.stdin.read().split()
queries = [bytes.fromhex(query) for query in queries]
ready = selectors.DefaultSelector()
answered = 0


def send(datagrams, waiting):
    while queries and len(waiting) < AT_ONCE:
        query = queries.pop()
        datagrams.send(query)
        waiting.append(query[:2])


for _ in range(SOCKETS):
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.connect((server, 53))
    waiting = []
    ready.register(datagrams, selectors.EVENT_READ, waiting)
    send(datagrams, waiting)

while any(key.data for key in ready.get_map().values()):
    events = ready.select(timeout=10)
    if not events:
        break
    for key, _ in events:
        reply = key.fileobj.recv(65535)
        # The guest's own id comes back to it, and a code that is no error.
        if reply[:2] in key.data:
            key.data.remove(reply[:2])
            answered += reply[3] & 0x0F == 0
        send(key.fileobj, key.data)
print(answered)
