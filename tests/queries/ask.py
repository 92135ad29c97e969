"""Sends queries as they are and prints what comes back, decoded by dnspython, which shares no code with netguard.

Input: a JSON list of {server, tcp, bytes, behind}; what is in `behind` is sent on the same socket right after the
query, so that silence is seen from what is answered instead. Output: a JSON list, one element for each query.
"""

import json
import socket
import struct
import sys

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode


def framed(message):
    return struct.pack("!H", len(message)) + message


def receive(stream, length):
    received = b""
    while len(received) < length:
        more = stream.recv(length - len(received))
        if not more:
            return None
        received += more
    return received


def ask(query):
    server, messages = query["server"], [bytes.fromhex(query["bytes"])]
    if query["behind"]:
        messages.append(bytes.fromhex(query["behind"]))
    if query["tcp"]:
        with socket.create_connection((server, 53), timeout=10) as stream:
            try:
                stream.sendall(b"".join(framed(message) for message in messages))
                length = receive(stream, 2)
                return length and receive(stream, struct.unpack("!H", length)[0])
            except ConnectionError:
                return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(10)
        datagrams.connect((server, 53))
        for message in messages:
            datagrams.send(message)
        return datagrams.recv(65535)


def option(it):
    if isinstance(it, dns.edns.EDEOption):
        return {"code": int(it.otype), "ede": int(it.code), "text": it.text}
    return {"code": int(it.otype)}


def asked(query):
    try:
        wire = ask(query)
    except TimeoutError:
        return {"error": "nothing came"}
    return {"closed": True} if wire is None else decoded(wire)


def decoded(wire):
    # It refuses bytes behind the message, and everything that contradicts itself.
    try:
        message = dns.message.from_wire(wire, one_rr_per_rrset=True)
    except Exception as error:
        return {"error": repr(error), "bytes": wire.hex()}
    texts = lambda section: [rrset.to_text() for rrset in section]
    return {
        "closed": False,
        "bytes": wire.hex(),
        "id": message.id,
        "flags": dns.flags.to_text(message.flags),
        "opcode": dns.opcode.to_text(message.opcode()),
        "rcode": dns.rcode.to_text(message.rcode()),
        "counts": struct.unpack("!4H", wire[4:12]),
        "answer": texts(message.answer),
        "authority": texts(message.authority),
        "additional": texts(message.additional),
        "edns": message.edns,
        "payload": message.payload,
        "edns_flags": dns.flags.edns_to_text(message.ednsflags),
        "options": [option(it) for it in message.options],
    }


json.dump([asked(query) for query in json.load(sys.stdin)], sys.stdout)
