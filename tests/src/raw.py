# A client that speaks PostgreSQL's protocol by hand (chapter "Message Formats"), for what no real client does.
import os, socket, struct, sys
def connect():
    s = socket.create_connection((os.environ["PGHOST"], int(os.environ["PGPORT"])), timeout=60)
    return s
def startup(s, **more):
    body = struct.pack(">I", 196608)
    for k, v in dict(user=os.environ["PGUSER"], database="orders", **more).items():
        body += k.encode() + b"\0" + v.encode() + b"\0"
    s.sendall(struct.pack(">I", len(body) + 5) + body + b"\0")
def msg(tag, body=b""):
    return tag + struct.pack(">I", len(body) + 4) + body
def messages(s):
    data = b""
    while True:
        while len(data) >= 5 and len(data) >= 1 + struct.unpack(">I", data[1:5])[0]:
            end = 1 + struct.unpack(">I", data[1:5])[0]
            yield data[:1], data[5:end]
            data = data[end:]
        try:
            more = s.recv(65536)
        except ConnectionResetError:
            return
        if not more:
            return
        data += more
def until(stream, tag):
    seen = []
    for t, body in stream:
        seen.append((t, body))
        if t == tag:
            break
    return seen
def errors(seen):
    for t, body in seen:
        if t == b"E":
            fields = dict((f[:1], f[1:].decode()) for f in body.split(b"\0") if f)
            print(fields[b"S"], fields[b"C"], fields[b"M"])
def session():
    s = connect()
    startup(s)
    stream = messages(s)
    until(stream, b"Z")
    return s, stream


def query(sql):
    return msg(b"Q", sql + b"\0")


def parse(name, sql):
    return msg(b"P", name + b"\0" + sql + b"\0\0\0")


def bind(portal, name):
    return msg(b"B", portal + b"\0" + name + b"\0\0\0\0\0\0\0")


def execute(portal):
    return msg(b"E", portal + b"\0\0\0\0\0")


def close(name):
    return msg(b"C", b"S" + name + b"\0")


sync = msg(b"S")


def show(s, stream, sql):
    """Runs a simple query and prints its errors, then its rows and command tags."""
    s.sendall(query(sql))
    seen = until(stream, b"Z")
    errors(seen)
    print([body for tag, body in seen if tag in b"DC"])
