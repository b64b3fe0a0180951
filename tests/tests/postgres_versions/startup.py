# Start-up in all its orders: what comes back for each, a line a case. Run behind the gateway and at a server of itself.
import ssl, time
GSS, SSL = struct.pack(">II", 8, 80877104), struct.pack(">II", 8, 80877103)
body = struct.pack(">I", 196608) + b"user\0" + os.environ["PGUSER"].encode() + b"\0database\0orders\0\0"
START = struct.pack(">I", len(body) + 4) + body
SELECT = query(b"SELECT 'ser' || 'ved'")


def context(alpn):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if alpn:
        made.set_alpn_protocols(alpn)
    return made


def tls(*alpn):
    return lambda s: context(alpn).wrap_socket(s)


def hello():
    out = ssl.MemoryBIO()
    try:
        context(["postgresql"]).wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    except ssl.SSLWantReadError:
        return out.read()


def answer(s):
    """One byte, to a request for encryption."""
    said = s.recv(1).decode()
    return said if said in ("N", "S") else "refused"


def told(s):
    """A session serves a statement, or there is none."""
    stream = messages(s)
    seen = until_any(stream, b"ZE")
    if not seen or seen[-1][0] != b"Z":
        return "refused"
    s.sendall(SELECT)
    return "served" if any(tag == b"D" and b"served" in body for tag, body in until(stream, b"Z")) else "broken"


def until_any(stream, tags):
    seen = []
    for tag, body in stream:
        seen.append((tag, body))
        if tag in tags:
            break
    return seen


def closed(s):
    """Nothing more is said."""
    return "refused" if s.recv(1) == b"" else "more"


def run(s, *steps):
    said = []
    try:
        for step in steps:
            if isinstance(step, bytes):
                s.sendall(step)
                continue
            done = step(s)
            if isinstance(done, str):
                said.append(done)
                if done == "refused":
                    break
            else:
                s = done
    except (ConnectionError, ssl.SSLError):
        said.append("refused")
    return " ".join(said)


def all_of(s):
    data = b""
    try:
        while more := s.recv(65536):
            data += more
    except ConnectionError:
        pass
    return data


def by_all(s):
    return "served" if b"served" in all_of(s) else "refused"


def after_answer(s):
    """Whether the request is answered before the connection ends is of no matter."""
    first = s.recv(1, socket.MSG_PEEK)
    if first == b"N":
        s.recv(1)
    return s


RIGHT = tls("postgresql")
DEFAULT = tls()
CASES = {
    "plain": (START, told),
    "GSS, plain": (GSS, answer, START, told),
    "TLS": (SSL, answer, DEFAULT, START, told),
    "TLS that names the protocol": (SSL, answer, RIGHT, START, told),
    "TLS that names another protocol": (SSL, answer, tls("http/1.1"), START, told),
    "GSS, TLS": (GSS, answer, SSL, answer, DEFAULT, START, told),
    "TLS, GSS": (SSL, answer, DEFAULT, GSS, answer, START, told),
    "TLS twice": (SSL, answer, DEFAULT, SSL, answer, START, told),
    "GSS twice": (GSS, answer, GSS, answer, START, told),
    "GSS, TLS, GSS": (GSS, answer, SSL, answer, DEFAULT, GSS, answer, START, told),
    "GSS, TLS, TLS": (GSS, answer, SSL, answer, DEFAULT, SSL, answer, START, told),
    "TLS asked for and not begun": (SSL, answer, START + SELECT, by_all),
    "direct TLS": (RIGHT, START, told),
    "direct TLS, which also names another protocol": (tls("http/1.1", "postgresql"), START, told),
    "direct TLS that names no protocol": (DEFAULT, START, told),
    "direct TLS that names another protocol": (tls("http/1.1"), START, told),
    "direct TLS, TLS": (RIGHT, SSL, answer, START, told),
    "direct TLS, GSS": (RIGHT, GSS, answer, START, told),
    "direct TLS, GSS, TLS": (RIGHT, GSS, answer, SSL, answer, START, told),
    "direct TLS, GSS twice": (RIGHT, GSS, answer, GSS, answer, START, told),
    "GSS, direct TLS": (GSS, answer, RIGHT, START, told),
    # Bytes that somebody sends along before the answer, to have them taken for what comes encrypted.
    "TLS and a start": (SSL + START, answer, by_all),
    "TLS and a start and a statement": (SSL + START + SELECT, answer, by_all),
    "TLS and a hello and a start": (SSL + hello() + START + SELECT, answer, by_all),
    "GSS and a start": (GSS + START, after_answer, told),
    "GSS and TLS": (GSS + SSL, after_answer, told),
    "GSS and a byte": (GSS + b"\0", after_answer, told),
    "direct TLS and a start": (hello() + START + SELECT, by_all),
}


for name, steps in CASES.items():
    print(f"{name}: {run(connect(), *steps)}")


# Cancel requests, each in its own way: by the session's key, and by another one.
def sleeping(seconds):
    s = connect()
    s.sendall(START)
    stream = messages(s)
    process, = [body for tag, body in until(stream, b"Z") if tag == b"K"]
    s.sendall(query(b"SELECT pg_sleep(%d)" % seconds))
    time.sleep(0.3)
    return stream, process


for name, steps in {
    "plain": (), "TLS": (SSL, answer, DEFAULT), "GSS, plain": (GSS, answer), "GSS, TLS": (GSS, answer, SSL, answer, DEFAULT), "direct TLS": (RIGHT,),
}.items():
    for key in ("right", "wrong"):
        stream, process = sleeping(60 if key == "right" else 1)
        if key == "wrong":
            process = process[:4] + bytes(byte ^ 1 for byte in process[4:])
        request = struct.pack(">II", 8 + len(process), 80877102) + process
        said = run(connect(), *steps, request, closed)
        errors_seen = [body for tag, body in until(stream, b"Z") if tag == b"E"]
        ended = "cancelled" if any(b"C57014\0" in body for body in errors_seen) else "went on"
        print(f"cancel, {name}, {key} key: {said}, {ended}")
