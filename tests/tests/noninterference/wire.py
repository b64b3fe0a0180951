# Steps as messages, and what comes back, but for what differs and is no value.
import re
import struct

from raw import bind, execute, msg, parse, query, sync


# Bind with values in text, and results in text (0) or binary (1).
def bound(portal, statement, values, form=0):
    data = b"".join(struct.pack(">I", len(it)) + it for it in (value.encode() for value in values))
    return msg(b"B", portal + b"\0" + statement + b"\0\0\0" + struct.pack(">H", len(values)) + data + b"\0\1\0" + bytes([form]))


def limited(portal, rows):
    return msg(b"E", portal + b"\0" + struct.pack(">I", rows))


def copied(step):
    if step.form == "CF":
        return msg(b"d", step.more.encode()) + msg(b"f", b"enough\0")
    return msg(b"d", step.more if isinstance(step.more, bytes) else step.more.encode()) + msg(b"c")


def wire(step):
    form, more = step.form, step.more
    text = step.text.encode() if isinstance(step.text, str) else b""
    described = msg(b"D", b"P\0")
    match form:
        case "Q":
            return query(text)
        case "X0" | "X1":
            return parse(b"", text) + bound(b"", b"", (), int(form[1])) + described + execute(b"") + sync
        case "B":
            return parse(b"", text) + bound(b"", b"", *more) + described + execute(b"") + sync
        case "C" | "CF":
            return query(text) + copied(step)
        case "CX":
            return parse(b"", text) + bind(b"", b"") + described + execute(b"") + copied(step) + sync
        case "N":
            return parse(more.encode(), text) + sync
        case "E":
            return bound(b"", text, more or ()) + described + execute(b"") + sync
        case "DS" | "CS":
            return msg(b"D" if form == "DS" else b"C", b"S" + text + b"\0") + sync
        # A portal that is suspended, and goes on.
        case "S":
            rows, times = more
            return parse(b"", text) + bound(b"", b"", ()) + described + limited(b"", rows) * times + execute(b"") + sync
        case "PB":
            return parse(b"", text) + bound(more.encode(), b"", ()) + sync
        case "PE":
            return limited(text, more or 0) + sync
        case "PD" | "PC":
            return msg(b"D" if form == "PD" else b"C", b"P" + text + b"\0") + sync
        case "P":
            return b"".join(parse(b"", sql.encode()) + bind(b"", b"") + described + execute(b"") for sql in step.text) + sync
        case "F":
            values = b"".join(struct.pack(">I", len(it)) + it.encode() for it in more)
            return msg(b"F", struct.pack(">IHH", int(text), 0, len(more)) + values + b"\0\0")
    raise ValueError(form)


def is_copy_in(step):
    return step.form in ("C", "CX", "CF")


# IDs of denials, who notifies, which target it is, the number of a session's own schema.
def same(tag, body):
    if tag == b"A":
        body = body[4:]
    body = re.sub(rb"pg_(toast_)?temp_\d+", rb"pg_\1temp", body)
    return tag, re.sub(rb"[0-9a-z]{13}-\d+", b"ID", body).replace(b'target "twin"', b'target "orders"')


def answer(stream, step):
    seen = []
    for tag, body in stream:
        seen.append(same(tag, body))
        if tag == b"Z" or tag == b"G" and not is_copy_in(step):
            break
    return seen


def state(answer):
    return answer[-1][1] if answer and answer[-1][0] == b"Z" else None
