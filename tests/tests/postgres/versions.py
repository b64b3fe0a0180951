# Asks for versions of the protocol, with and without an option that nobody knows; then cancels with the key of each length.
import time


def began(minor, options):
    s = connect()
    startup(s, minor, user=os.environ["PGUSER"], **options)
    stream = messages(s)
    seen = until(stream, b"Z")
    errors(seen)
    # Nothing comes before it.
    assert not [tag for tag, _ in seen[1:] if tag == b"v"]
    told = [struct.unpack(">HHI", body[:8]) + (body[8:],) for tag, body in seen if tag == b"v"]
    told = [(major, spoken, rest.decode().split("\0")[:-1]) for major, spoken, count, rest in told if rest.count(0) == count]
    [identity] = [body for tag, body in seen if tag == b"K"]
    return s, stream, told, identity


def cancel(identity):
    c = connect()
    c.sendall(struct.pack(">II", 8 + len(identity), 80877102) + identity)
    assert list(messages(c)) == []


for minor in 0, 1, 2, 3, 9999:
    for options in {}, {"_pq_.x": "1"}:
        s, _, told, identity = began(minor, options)
        print((3, minor), told, len(identity) - 4)
        s.close()

for minor in 0, 2:
    s, stream, _, identity = began(minor, {})
    process, key = identity[:4], identity[4:]
    s.sendall(query(b"SELECT pg_sleep(2)"))
    time.sleep(0.5)
    for other in key[:-1], key + b"\0", bytes(len(key)), key[::-1], key[:4] + bytes(28):
        if other != key:
            cancel(process + other)
    seen = until(stream, b"Z")
    errors(seen)
    print((3, minor), "slept" if b"D" in [tag for tag, _ in seen] else "cancelled")
    s.sendall(query(b"SELECT pg_sleep(60)"))
    time.sleep(0.5)
    cancel(identity)
    fields = [body for tag, body in until(stream, b"Z") if tag == b"E"]
    print((3, minor), *[field[1:].decode() for body in fields for field in body.split(b"\0") if field[:1] == b"C"])
