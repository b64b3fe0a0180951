"""PostgreSQL clients that behave badly, one way for each name: python3 client.py NAME...

What a server said last is printed for each, so that the test can hold the gateway to it: `error CODE MESSAGE` for every
error, then how the connection ended.
"""

import os
import random
import socket
import struct
import sys
import time

MIB = 1 << 20


def connect():
    found = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])), 20)
    found.settimeout(60)
    return found


def message(tag, body):
    return tag + struct.pack("!I", len(body) + 4) + body


def query(sql):
    return message(b"Q", sql.encode() + b"\0")


def startup():
    parameters = f"user\0coder\0database\0{os.environ['PGDATABASE']}\0\0".encode()
    body = struct.pack("!I", 3 << 16) + parameters
    return struct.pack("!I", len(body) + 4) + body


def exactly(server, count):
    got = bytearray()
    while len(got) < count:
        part = server.recv(min(count - len(got), MIB))
        if not part:
            raise EOFError
        got += part
    return bytes(got)


def receive(server):
    header = exactly(server, 5)
    return header[:1], exactly(server, struct.unpack("!I", header[1:])[0] - 4)


def show(tag, body):
    if tag == b"E":
        fields = {part[:1]: part[1:].decode() for part in body.split(b"\0") if part}
        print("error", fields[b"C"], fields[b"M"], flush=True)


def until_ready(server):
    while True:
        tag, body = receive(server)
        show(tag, body)
        if tag == b"Z":
            return


def until_closed(server):
    try:
        while True:
            show(*receive(server))
    except EOFError:
        print("closed", flush=True)
    except (ConnectionResetError, BrokenPipeError):
        print("reset", flush=True)
    except socket.timeout:
        print("STILL OPEN", flush=True)


def log_in():
    server = connect()
    server.sendall(startup())
    until_ready(server)
    return server


def send(server, data):
    try:
        server.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        pass  # it had enough: until_closed() tells how it ended


def garbage():
    source = random.Random(20)
    for logged_in in [False] * 12 + [True] * 12:
        server = log_in() if logged_in else connect()
        send(server, source.randbytes(source.randint(1, 20_000)))
        server.shutdown(socket.SHUT_WR)
        until_closed(server)


def half():
    for begun, data in [
        (connect(), b""),
        (connect(), startup()[:3]),
        (connect(), startup()[:-5]),
        (connect(), struct.pack("!II", 8, 80877103)),  # asks for TLS, then nothing
        (log_in(), b"Q"),
        (log_in(), query("SELECT 1")[:-3]),
        (log_in(), query("BEGIN") + b"P\0\0"),
    ]:
        send(begun, data)
        begun.shutdown(socket.SHUT_WR)
        # An answer to the request for TLS is one byte.
        if len(data) == 8:
            print("tls", begun.recv(1).decode())
        until_closed(begun)


def length():
    for bad in [0, 3, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]:
        server = connect()
        send(server, struct.pack("!I", bad) + bytes(64))
        until_closed(server)
    for tag in b"QPBEdDFXp\0":
        for bad in [0, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]:
            server = log_in()
            send(server, bytes([tag]) + struct.pack("!I", bad) + bytes(64))
            server.shutdown(socket.SHUT_WR)
            until_closed(server)


def large():
    server = log_in()
    send(server, query("SELECT '" + "x" * (2 * MIB) + "'"))
    until_ready(server)
    print("lives", flush=True)
    send(server, query("SELECT '" + "x" * (64 * MIB) + "'"))
    until_ready(server)
    send(server, query("SELECT 1"))
    until_ready(server)
    print("goes on", flush=True)


def nested():
    server = log_in()
    for depth in [1_000, 7_900, 10_000, 100_000]:
        for sql in ["SELECT " + "(" * depth + "1" + ")" * depth, "SELECT " + "(" * depth, "SELECT " + "1+" * depth + "1"]:
            send(server, query(sql))
            until_ready(server)
    send(server, query("SELECT 1"))
    until_ready(server)
    print("lives", flush=True)


def stuck():
    """Asks for some 400 MB and does not read them, until it is told to go."""
    server = log_in()
    send(server, query("SELECT repeat('x', 1000) FROM generate_series(1, 400000)"))
    print("stuck", flush=True)
    sys.stdin.readline()
    print("gone", flush=True)


def slow():
    """One that says nothing, one that says half, and one that always has one more byte to say."""
    began, (silent, started, dripping) = time.monotonic(), (connect(), connect(), connect())
    started.sendall(startup()[:20])
    dripping.settimeout(1)
    dripping.sendall(struct.pack("!I", 9_000))
    while time.monotonic() - began < 60:
        try:
            dripping.sendall(b"\0")
            show(*receive(dripping))
            break
        except socket.timeout:
            continue
        except OSError:
            break
    for server in silent, started, dripping:
        until_closed(server)
    print("after", round(time.monotonic() - began), "s", flush=True)


for name in sys.argv[1:]:
    print("---", name, flush=True)
    {it.__name__: it for it in (garbage, half, length, large, nested, stuck, slow)}[name]()
