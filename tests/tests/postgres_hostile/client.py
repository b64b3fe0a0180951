# HOW SQL: asks by the simple or the extended protocol, or by the simple one in a session of 3.2, then once more for something harmless, and tells what it was told.
import json

how, sql = sys.argv[1], sys.argv[2].encode()
told, ended = [], False


def hear(s, stream):
    """All up to the next readiness; whether it came."""
    seen = until(stream, b"Z")
    told.extend(seen)
    return bool(seen) and seen[-1][0] == b"Z"


def ask(s, stream, messages):
    try:
        s.sendall(messages)
    except OSError:
        pass
    return hear(s, stream)


s = connect()
startup(s, 2 if how == "newer" else 0)
stream = messages(s)
ways = {"simple": query(sql), "newer": query(sql), "extended": parse(b"", sql) + bind(b"", b"") + execute(b"") + sync}
alive = hear(s, stream) and ask(s, stream, ways[how]) and ask(s, stream, query(b"SELECT 'afterwards'"))
errors = []
for tag, body in told:
    if tag == b"E":
        fields = {field[:1].decode(): field[1:].decode("latin1") for field in body.split(b"\0") if field}
        errors.append([fields.get(letter, "") for letter in "SCM"])
whole = b"".join(tag + body for tag, body in told)
print(json.dumps({"alive": alive, "errors": errors, "told": whole.decode("latin1")}))
