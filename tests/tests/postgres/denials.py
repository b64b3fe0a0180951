# Work before and behind a statement that fails, in every place where one can stand: what comes back, a line a case. Behind the
# gateway the statement is denied, at a server of itself it is an error.
PARSED, RUN, COPY, COPY_RUN = (os.environ[name].encode() for name in ("PARSED", "RUN", "COPY", "COPY_RUN"))


def insert(note):
    return b"INSERT INTO kept (note) VALUES ('" + note + b"')"


def ext(sql):
    return parse(b"", sql) + bind(b"", b"") + execute(b"")


def described(sql):
    return parse(b"", sql) + bind(b"", b"") + msg(b"D", b"P\0") + execute(b"")


def shown(tag, body):
    if tag == b"E":
        return "E"
    return tag.decode() + (repr(body)[1:] if tag in b"CDZ" else "")


def told(stream, readies=1, upto=None):
    """Messages up to so many readinesses, or up to one of a type."""
    seen = []
    while readies:
        tag, body = next(stream)
        if tag not in b"NS":
            seen.append(shown(tag, body))
        readies -= tag == b"Z"
        if upto == tag:
            break
    return " ".join(seen)


def truth(s, stream):
    """What the target's transaction is, by what it says to SAVEPOINT."""
    s.sendall(query(b"SAVEPOINT of_a_test"))
    seen = until(stream, b"Z")
    codes = [field[1:].decode() for tag, body in seen if tag == b"E" for field in body.split(b"\0") if field[:1] == b"C"]
    return {"": "open", "25P01": "none", "25P02": "failed"}[codes[0] if codes else ""]


SELECT = b"SELECT 7, 'before'"
ROW = msg(b"d", b"copied\n")
COPY_IN = b"COPY kept (note) FROM STDIN"
# Whether in a transaction, then what is sent together, with the number of its Syncs and simple queries.
CASES = {
    "first": (ext(PARSED) + ext(insert(b"behind")) + sync, 1),
    "between": (described(insert(b"a")) + described(SELECT) + described(PARSED) + described(insert(b"b")) + ext(SELECT) + sync, 1),
    "between, two at once": (ext(insert(b"a")) + ext(PARSED) + ext(insert(b"b")) + sync + ext(insert(b"c")) + ext(SELECT) + sync, 2),
    "last": (ext(insert(b"a")) + ext(SELECT) + ext(PARSED) + sync, 1),
    "twice": (ext(insert(b"a")) + ext(PARSED) + ext(PARSED) + sync + ext(PARSED) + sync, 2),
    "behind Flush": (ext(insert(b"a")) + msg(b"H") + ext(SELECT) + msg(b"H") + ext(PARSED) + msg(b"H") + ext(insert(b"b")) + sync, 1),
    "before all else": (ext(insert(b"a")) + ext(PARSED) + query(insert(b"simple")) + msg(b"F", struct.pack(">IHHH", 2559, 0, 0, 0)) +
        msg(b"D", b"Snothing\0") + bind(b"x", b"nothing") + execute(b"x") + close(b"nothing") + msg(b"H") + sync, 1),
    "with BEGIN in the batch": (ext(b"BEGIN") + ext(insert(b"a")) + ext(PARSED) + ext(b"COMMIT") + sync, 1),
    "behind COMMIT": (ext(b"BEGIN") + ext(insert(b"a")) + ext(b"COMMIT") + ext(PARSED) + ext(insert(b"b")) + sync, 1),
    "prepared and bound before": (parse(b"s", insert(b"by name")) + bind(b"p", b"s") + ext(PARSED) + sync +
        bind(b"", b"s") + execute(b"") + sync, 2),
    "when it runs": (ext(insert(b"a")) + described(SELECT) + ext(RUN) + ext(insert(b"b")) + sync + ext(SELECT) + sync, 2),
    "when it runs, behind Flush": (ext(insert(b"a")) + msg(b"H") + ext(RUN) + msg(b"H") + ext(insert(b"b")) + sync, 1),
    "behind COPY": (ext(insert(b"a")) + ext(COPY_IN) + ROW + ROW + msg(b"c") + ext(PARSED) + ext(insert(b"b")) + sync, 1),
    "behind COPY that fails": (ext(COPY_IN) + ROW + msg(b"f", b"no\0") + ext(PARSED) + sync + ext(insert(b"c")) + sync, 2),
    "between COPYs": (ext(COPY_IN) + ROW + msg(b"c") + ext(PARSED) + ext(COPY_IN) + ROW + msg(b"c") + sync + ext(SELECT) + sync, 2),
    "COPY": (ext(COPY) + ROW + ROW + msg(b"c") + ext(insert(b"b")) + sync + ext(SELECT) + sync, 2),
    "COPY, taken back": (ext(COPY) + ROW + msg(b"f", b"no\0") + sync + ext(insert(b"c")) + sync, 2),
    "COPY behind work": (ext(insert(b"a")) + ext(COPY) + ROW + msg(b"c") + ext(insert(b"b")) + sync, 1),
    "COPY when it runs": (ext(COPY_RUN) + ROW + ROW + msg(b"c") + ext(insert(b"b")) + sync + ext(SELECT) + sync, 2),
    "COPY when it runs, behind work": (ext(insert(b"a")) + ext(COPY_RUN) + ROW + msg(b"c") + ext(insert(b"b")) + sync, 1),
    "simple": (query(PARSED) + query(insert(b"c")), 2),
    "simple, when it runs": (query(RUN) + query(SELECT), 2),
    "simple, between": (query(insert(b"a") + b"; " + SELECT + b"; " + PARSED + b"; " + insert(b"b")) + query(SELECT), 2),
    "simple, with BEGIN": (query(b"BEGIN; " + insert(b"a") + b"; " + PARSED), 1),
    "simple, COPY": (query(COPY) + ROW + msg(b"c") + query(insert(b"c")), 2),
    "simple, COPY between": (query(insert(b"a") + b"; " + COPY_IN + b"; " + PARSED) + ROW + msg(b"c") + query(SELECT), 2),
}


def kept(s, stream):
    s.sendall(query(b"ROLLBACK"))
    until(stream, b"Z")
    s.sendall(query(b"SELECT coalesce(string_agg(note, ',' ORDER BY id), '-') FROM kept"))
    row, = [body[6:].decode() for tag, body in until(stream, b"Z") if tag == b"D"]
    s.sendall(query(b"DELETE FROM kept WHERE id > 0"))
    until(stream, b"Z")
    return row


for within in ("", ", in a transaction"):
    for name, (data, readies) in CASES.items():
        s, stream = session()
        if within:
            s.sendall(query(b"BEGIN; " + insert(b"earlier")))
            until(stream, b"Z")
        s.sendall(data)
        said = told(stream, readies)
        state = truth(s, stream)
        if within:
            s.sendall(query(b"COMMIT"))
            said += " / " + told(stream)
        print(f"{name}{within}: {said} / {state} / {kept(s, stream)}")
        s.close()
