# Whole sessions, made by chance from a seed, run at two servers that differ in nothing but the values of masked columns, each
# by way of the gateway. What comes back must be the same, byte by byte. Prints what differs, as short as it gets, and how often
# each construct was made, and got through.
import os
import socket
import time
import zlib
from collections import Counter

# These register what they make.
import catalogs, changes, copies, definitions, documents, queries, sessions, values  # noqa: E401, F401
from maker import CONSTRUCTS, REFUSED, Maker, Step
from raw import messages, startup, until
from wire import answer, state, wire

# Differences after which a run ends: one change of the product's often makes several.
MOST_DIFFERENCES = 4
# A construct that was made so often got through at least once, or it is known that it never does.
OFTEN = 20
# Sessions of which the shares say something.
ENOUGH = 100
# Sessions between two fillings of the tables, and scenes of a session that goes through all that there are.
FILLED_FOR = 20
TOGETHER = 12
ROLLBACK = Step("Q", "ROLLBACK", None, frozenset())
FILL = Step("Q", "INSERT INTO again VALUES (1)", None, frozenset())


# The steps of a session: scenes one behind the other, some of them within each other.
def session(seed):
    m = Maker(seed)
    steps = []
    for _ in range(m.r.randint(3, 8)):
        more = a_statement(m) if m.maybe(0.5) else scene(m, m.r.choices(SCENES, [it.weight for it in SCENES])[0])
        if steps and m.maybe(0.2):
            before, steps = steps[-4:], steps[:-4]
            more = merged(m, before, more)
        steps += more
    return [*steps, ROLLBACK]


# Sessions that have all scenes and all kinds of statements in them, each once, in an order of the seed's.
def tour(seed):
    everything = SCENES + STATEMENTS
    Maker(seed).r.shuffle(everything)
    for at in range(0, len(everything), TOGETHER):
        m = Maker(seed + at)
        some = [a_statement(m, it) if it in STATEMENTS else scene(m, it) for it in everything[at: at + TOGETHER]]
        yield [*sum(some, []), ROLLBACK]


def a_statement(m, construct=None):
    m.begin()
    if construct:
        m.used.add(construct.name)
    text = construct.make(m) if construct else m.some("statement")
    m.sent.append(text)
    return [m.send(text)]


def scene(m, construct):
    m.begin()
    made, steps = construct.make(m), []
    rest = set(m.used)
    for it in made:
        if isinstance(it, str):
            m.used = rest | {construct.name}
            it, rest = m.send(it), set()
        steps.append(it._replace(used=it.used | {construct.name}))
    return steps


def merged(m, one, other):
    one, other, both = list(one), list(other), []
    while one or other:
        both.append((one if one and (not other or m.maybe(0.5)) else other).pop(0))
    return both


SCENES, STATEMENTS = CONSTRUCTS["scene"], CONSTRUCTS["statement"]


def opened():
    ends = []
    for port in os.environ["PORTS"].split():
        s = socket.create_connection((os.environ["PGHOST"], int(port)), timeout=60)
        startup(s)
        stream = messages(s)
        until(stream, b"Z")
        ends.append((s, stream))
    return ends


def both(ends, step):
    for s, _ in ends:
        s.sendall(wire(step))
    return [answer(stream, step) for _, stream in ends]


# After an error most clients roll back, and some do not.
def rolls_back(step):
    return zlib.crc32(repr(step.text).encode()) % 4 > 0


# What somebody else of the same agent sees meanwhile, who does nothing but listen and look. Nobody waits for a lock for long.
LISTENS = [Step("Q", it, None, frozenset()) for it in ("SET lock_timeout = '200ms'", "LISTEN c", "LISTEN x")]
LOOKS = [Step("Q", it, None, frozenset()) for it in (
    "SELECT last_value, is_called FROM s", "SELECT sequencename, last_value FROM pg_sequences WHERE sequencename NOT LIKE 'made%' ORDER BY 1", "SELECT last_value FROM orders_id_seq",
    "SELECT last_value FROM customers_id_seq", "SELECT count(*), max(id) FROM log", "SELECT id, xmin = xmin, ctid FROM orders ORDER BY id", "SELECT name, city, score FROM customers ORDER BY id",
    """SELECT locktype, relation::regclass::text, page, tuple, mode, granted FROM pg_locks
       WHERE pid <> pg_backend_pid() AND relation::regclass::text ~ '^[a-oq-z]' ORDER BY 1, 2, 3, 4, 5, 6""",
    "SELECT classid, objid, objsubid, mode, granted FROM pg_locks WHERE locktype = 'advisory' ORDER BY 1, 2, 3, 4", "SELECT count(*) FROM pg_locks WHERE NOT granted",
    "SELECT state, query FROM pg_stat_activity", "SELECT count(*) FROM pg_stat_activity", "SELECT name, statement FROM pg_cursors", "SELECT gid FROM pg_prepared_xacts",
    "SELECT relname, relkind, reltuples FROM pg_class WHERE relname LIKE 'made%' ORDER BY 1", "SELECT current_setting('application_name')", "SELECT pg_notification_queue_usage()",
    "SELECT pg_snapshot_xmax(pg_current_snapshot())", "SELECT lo_get(oid) FROM pg_largeobject_metadata")]
NOTHING = Step("Q", "SELECT 1", None, frozenset())
# What others see of it differs, where nothing is masked.
TOLD_TO_ALL = [Step("Q", "SELECT pg_notify('c', ssn) FROM customers ORDER BY id", None, frozenset())]


class Witness:
    def __init__(self):
        self.ends, self.heard = opened(), [[], []]
        for step in LISTENS:
            self.sees(step)

    # What is said at both ends. Notifications may come a little earlier or later: what there is of them counts at the end.
    def sees(self, step):
        said = both(self.ends, step)
        for heard, it in zip(self.heard, said):
            heard += [message for message in it if message[0] == b"A"]
        return [[message for message in it if message[0] != b"A"] for it in said]

    def looks(self, step):
        which = zlib.crc32(repr(step.text).encode())
        return LOOKS[which // 8 % len(LOOKS)] if which % 8 < 2 else None

    def ends_with(self):
        self.sees(NOTHING), self.sees(NOTHING)
        return self.heard

    def close(self):
        for s, _ in self.ends:
            s.close()


# Runs steps at both ends; where they differ first, or what a witness sees does: the step's number and what either said. Counts what
# became of them. `goes_on`: behind a difference, too.
def run(steps, count, goes_on=False):
    witness = Witness()
    try:
        found = run_before(witness, steps, count, goes_on)
        if found is None or goes_on:
            mine, theirs = witness.ends_with()
            count.others += mine != theirs
            found = found or ((len(steps) - 1, mine, theirs) if mine != theirs else None)
        return found
    finally:
        witness.close()


def run_before(witness, steps, count, goes_on):
    ends, found = opened(), None
    try:
        for number, step in enumerate(steps):
            mine, theirs = both(ends, step)
            count(step, mine)
            if mine != theirs:
                found = found or (number, mine, theirs)
            if (goes_on or not found) and (look := witness.looks(step)):
                seen = witness.sees(look)
                count.looked(look, seen)
                if seen[0] != seen[1]:
                    found = found or (number, *([look.text, it] for it in seen))
            if found and not goes_on or None in (state(mine), state(theirs)):
                return found
            if state(mine) == b"E" and rolls_back(step):
                for mend in ("ROLLBACK", "BEGIN"):
                    mine, theirs = both(ends, Step("Q", mend, None, frozenset()))
                    if mine != theirs and not goes_on:
                        return number, mine, theirs
        return found
    finally:
        for s, _ in ends:
            s.close()


# All rows as they were at the beginning, by the owner's own code.
def fill():
    ends = opened()
    said = both(ends, FILL)
    for s, _ in ends:
        s.close()
    assert all((b"C", b"INSERT 0 1\0") in it for it in said), said


class Coverage:
    def __init__(self):
        self.steps, self.made, self.through, self.done, self.rows, self.covered, self.looks = (Counter() for _ in range(7))
        # How often what others see differed.
        self.others = 0
        # What becomes of a tour's steps says nothing of the others': much of it is refused on purpose.
        self.on_tour, self.of_tour = False, Counter()

    def __call__(self, step, said):
        text = b" ".join(body for _, body in said)
        error = any(tag == b"E" for tag, _ in said)
        denied, aborted = b"denied by policy" in text, b"C25P02" in text
        rows = any(tag in (b"D", b"d") for tag, _ in said)
        covered = any(tag in (b"D", b"d") and b"***" in body for tag, body in said)
        kind = "denied" if denied else "in a failed transaction" if aborted else "failed" if error else "done"
        (self.of_tour if self.on_tour else self.steps).update([kind, *["with rows"] * rows, *["with covered values"] * covered])
        self.made.update(step.used)
        if not denied and not aborted:
            self.through.update(step.used)
            self.done.update(step.used if kind == "done" else ())
            self.rows.update(step.used if rows else ())
            self.covered.update(step.used if covered else ())

    def looked(self, look, seen):
        denied = b"denied by policy" in b" ".join(body for _, body in seen[0])
        self.looks.update([look.text] * (not denied))
        self.others += seen[0] != seen[1]

    def share(self, what):
        return self.steps[what] / max(sum(self.steps[it] for it in ("done", "failed", "denied", "in a failed transaction")), 1)

    def print(self):
        print(f"{'family':32} {'constructs':>10} {'made':>7} {'through':>7} {'rows':>7} {'covered':>7}")
        families = {}
        for it in known():
            families.setdefault(it.family, []).append(it.name)
        for family, names in sorted(families.items()):
            sums = [sum(counter[it] for it in set(names)) for counter in (self.made, self.through, self.rows, self.covered)]
            print(f"{family:32} {len(set(names)):>10} {sums[0]:>7} {sums[1]:>7} {sums[2]:>7} {sums[3]:>7}")
        print(f"looked at by others: {sum(self.looks.values())} times, {len(self.looks)} of {len(LOOKS)} ways were let through")
        for what, names in (("never made", self.never_made()), ("made twenty times and more, and always refused", self.never_through()), ("got through though they are never let through", self.surprising())):
            print(f"{what}: {len(names)}")
            for it in names:
                print(f"    {it}")

    def never_made(self):
        return sorted({it.name for it in known()} - set(self.made))

    def never_through(self):
        return sorted(it for it, made in self.made.items() if made >= OFTEN and not self.through[it] and it not in REFUSED)

    def surprising(self):
        return sorted(it for it in REFUSED if self.done[it])


def known():
    return [it for constructs in CONSTRUCTS.values() for it in constructs]


def shrink(steps):
    def differs(fewer):
        fill()
        return run(fewer, Coverage()) is not None
    size = max(len(steps) // 2, 1)
    while True:
        at = 0
        while at < len(steps) - 1:
            fewer = steps[:at] + steps[min(at + size, len(steps) - 1):]
            if len(fewer) < len(steps) and differs(fewer):
                steps = fewer
            else:
                at += size
        if size == 1:
            return steps
        size //= 2


def main():
    seed, most, minutes = int(os.environ["SEED"]), int(os.environ["SESSIONS"]), float(os.environ.get("MINUTES", "0"))
    counting = bool(os.environ.get("COUNT"))
    coverage, differ, started, number = Coverage(), 0, time.monotonic(), 0
    planned = [TOLD_TO_ALL] if counting else list(tour(seed * 1_000_003))
    while number < most + len(planned) or time.monotonic() < started + minutes * 60:
        if number % FILLED_FOR == 0:
            fill()
        coverage.on_tour = number < len(planned)
        steps = planned[number] if coverage.on_tour else session(seed * 1_000_003 + number)
        number += 1
        found = run(steps, coverage, goes_on=counting)
        if found is None:
            continue
        differ += 1
        if counting:
            fill()
            continue
        at, mine, theirs = found
        print(f"DIFFERS: seed {seed}, session {number - 1}, step {at} of {len(steps)}: {steps[at]}\n    one:   {mine}\n    other: {theirs}", flush=True)
        shorter = shrink(steps[: at + 1])
        fill()
        again = run(shorter, Coverage())
        print("Shrunk:" if again else "Not so on tables that are filled anew:")
        for step in shorter:
            print("   ", tuple(step)[:3])
        if again:
            print("    one:  ", again[1])
            print("    other:", again[2])
        if differ == MOST_DIFFERENCES:
            break
        fill()
    seconds = time.monotonic() - started
    if counting:
        print(f"what others see differed {coverage.others} times")
    else:
        coverage.print()
    print(f"{number} sessions, {differ} differ, in {seconds:.0f} s; steps: {dict(coverage.steps)}, of the {len(planned)} that have everything: {dict(coverage.of_tour)}")
    # Sessions that are refused throughout would be no proof.
    if not counting and not differ:
        shares = number - len(planned) < ENOUGH or coverage.share("done") > 0.5 and coverage.share("with rows") > 0.2 and coverage.share("with covered values") > 0.05
        assert shares, "most of it was refused"
        assert not coverage.never_through(), "constructs that are always refused, and not known to be"


main()
