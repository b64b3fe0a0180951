# What sessions are made of, by chance from a seed: a Maker, and the registry of all constructs that it can make. A construct has a name
# and a family, and each step remembers which constructs are in it, so that the run can tell how often each was made, and got through.
#
# A statement that is refused proves little. So most keep to what is let through: they choose rows by columns that are not masked
# (CLEAR), and show masked ones only in what cannot fail (SHOWN). Some slip in one place, and some do not care at all (BOLD).
import random
from collections import namedtuple

# By type: text, int, boolean, date, text[], jsonb, numeric, uuid.
TABLES = {
    "customers": "id:i name:t ssn:t email:t city:t score:i salary:i born:d tags:a doc:j balance:n token:u active:b",
    "orders": "id:i customer_id:i item:t amount:i twice:i",
    "notes": "id:i customer_id:i body:t email:t",
    "people": "id:i email:t age:i",
    "places": "id:i city:t visits:i",
    "elder": "id:i email:t note:t",
    "younger": "id:i email:t note:t extra:i",
    "labels": "id:i email:t low:t",
    "holders": "id:i email:t note:t",
    "refers": "id:i who:t note:t",
    "shares": "id:i tenant:i email:t until:d",
    "parents": "id:i code:t",
    "children": "id:i parent:i note:t",
    "typed": "id:i word:t doc:j",
    "v_plain": "id:i name:t ssn:t",
    "v_expr": "id:i loud:t both:t",
    "v_join": "id:i item:t email:t",
    "v_count": "city:t n:i top:i",
    "v_union": "id:i said:t email:t",
    "v_window": "id:i city:t place:i before:t",
    "v_graz": "id:i name:t city:t",
    "v_chain": "id:i path:t",
    "v_barrier": "id:i name:t email:t",
    "log": "id:i line:t",
    "stamped": "id:i body:t",
    "ruled": "id:i body:t",
    "rooms": "id:i city:t body:t",
    "tenants": "id:i city:t email:t",
}
TABLES = {name: [tuple(it.split(":")) for it in columns.split()] for name, columns in TABLES.items()}
# Of these tables mostly: they have what is masked.
OFTEN = ["customers"] * 12 + ["notes"] * 4 + ["people", "orders"] * 3
MASKED = {"ssn", "email", "salary", "born", "tags", "doc", "balance", "token", "active", "both", "top", "low", "who", "before"}
# `typed.doc` is not.
UNMASKED = {("typed", "doc")}
TYPES = {"t": "text", "i": "int", "b": "boolean", "d": "date", "a": "text[]", "j": "jsonb", "n": "numeric", "u": "uuid"}

CLEAR, SHOWN, BOLD = "clear", "shown", "bold"

Step = namedtuple("Step", "form text more used")
Construct = namedtuple("Construct", "name family weight make")

# By what they make: a value of a type ("value t" ...), an item of a FROM list, a query, a statement, a scene of several steps.
CONSTRUCTS = {}
# Those that are always refused, each with the reason.
REFUSED = {}


# Registers a function that makes something of this sort. `refused`: why it never gets through.
def makes(sort, family, weight=1, refused=None, name=None):
    def register(make):
        known = name or make.__name__
        CONSTRUCTS.setdefault(sort, []).append(Construct(known, family, weight, make))
        if refused:
            REFUSED[known] = refused
        return make
    return register


# Registers texts: `{t}` is a value of that type as the place has it, `{T}` one that is made of no masked column, `{#}` a small number.
def templates(sort, family, *texts, refused=None):
    for text in texts:
        makes(sort, family, name=text, refused=refused)(lambda m, where, text=text: m.fill(text, where))


# Registers whole statements, or scenes of several, which have their share of the weight. `!` before one: it is always refused. `@@` is a
# name that nothing has yet.
def statements(family, weight, *texts, refused="it would show or store what is masked"):
    for text in texts:
        steps = [text] if isinstance(text, str) else text
        always = steps[0].startswith("!")
        steps = [steps[0].removeprefix("!"), *steps[1:]]
        makes("scene", family, weight / len(texts), refused if always else None, "; ".join(steps))(lambda m, steps=steps: m.with_fresh_name(steps))


# Where a value stands: which columns there are, how deep it may go, what it may be made of, whether aggregates are.
class Where(namedtuple("Where", "scope depth mood grouped")):
    def deeper(self):
        return self._replace(depth=self.depth - 1)

    def clear(self):
        return self._replace(mood=self.mood if self.mood == BOLD else CLEAR)


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.number = seed % 10_000
        self.tables = {name: list(columns) for name, columns in TABLES.items()}
        self.sent = []
        self.count = 0
        self.used, self.slips, self.params, self.binds = set(), 0, None, []
        self.touched = False
        # What the next FROM list is of.
        self.wanted = None

    # Chance.

    def one(self, *choices):
        choice = self.r.choice(choices)
        return choice() if callable(choice) else choice

    def maybe(self, chance):
        return self.r.random() < chance

    def name(self, prefix):
        self.count += 1
        return prefix + str(self.count)

    # A name for what may outlive the session.
    def fresh(self, prefix="made"):
        return self.name(f"{prefix}{self.number}_")

    def with_fresh_name(self, steps):
        name = self.fresh() if any("@@" in it for it in steps) else ""
        return [it.replace("@@", name) for it in steps]

    def small(self):
        return self.r.randint(1, 4)

    # One of the constructs of this sort, made.
    def some(self, sort, *arguments):
        among = CONSTRUCTS[sort]
        construct = self.r.choices(among, [it.weight for it in among])[0]
        self.used.add(construct.name)
        return construct.make(self, *arguments)

    # Steps.

    # How careful the statement is that is made next.
    def begin(self):
        self.used, self.binds = set(), []
        roll = self.r.random()
        self.slips = 0 if roll < 0.75 else 1 if roll < 0.94 else 1000
        return self

    def step(self, form, text, more=None):
        step = Step(form, text, more, frozenset(self.used))
        self.begin()
        return step

    # A statement by the simple protocol or the extended one, and there with results in text or binary.
    def send(self, text):
        return self.step("Q" if ";" in text else self.one("Q", "X0", "X1"), text)

    # A mood, or what it slips to.
    def mood(self, mood):
        if self.slips and (self.slips > 1 or self.maybe(0.2)):
            self.slips -= 1
            return BOLD
        return mood

    # Values.

    def is_masked(self, alias, column, of):
        return (column in MASKED or column.startswith("m")) and (of, column) not in UNMASKED

    def column(self, kind, where):
        found = [(alias, c, self.is_masked(alias, c, of)) for alias, columns, of in where.scope for c, k in columns if k == kind]
        if where.mood == CLEAR:
            found = [it for it in found if not it[2]]
        elif self.maybe(0.7):
            found = [it for it in found if it[2]] or found
        if not found:
            return None
        alias, c, masked = self.r.choice(found)
        self.touched |= masked
        return f"{alias}.{c}"

    def value(self, kind, where):
        leaf = None if where.grouped else self.column(kind, where)
        if where.depth <= 0 or (leaf and self.maybe(0.4)):
            if where.grouped and self.maybe(0.8):
                return self.some(f"aggregate {kind}", where)
            return leaf if leaf and self.maybe(0.9) else self.literal(kind)
        if where.grouped and self.maybe(0.5):
            return self.some(f"aggregate {kind}", where)
        # What can fail is made of nothing masked, and does not stand where something masked decides whether it is computed.
        if where.mood != SHOWN and self.maybe(0.45):
            return self.some(f"fallible {kind}", where.deeper())
        if where.mood == SHOWN and self.slips and self.maybe(0.1) and self.mood(SHOWN) == BOLD:
            return self.some(f"fallible {kind}", where.deeper()._replace(mood=BOLD))
        return self.some(f"value {kind}", where.deeper())

    def fill(self, text, where):
        parts, rest = [], text
        while "{" in rest:
            before, _, rest = rest.partition("{")
            # Two of them are one, which stands for itself.
            if rest.startswith("{"):
                parts.append(before + "{")
                rest = rest[1:]
                continue
            hole, _, rest = rest.partition("}")
            if hole == "#":
                value = str(self.small())
            elif hole.isupper():
                value = self.value(hole.lower(), where.clear())
            else:
                value = self.value(hole, where)
            parts += [before, value]
        return "".join(parts) + rest

    def literal(self, kind):
        text = {"t": lambda: self.one("'9'", "'a'", "'900'", "'x-y-1'", "'Graz'", "NULL::text", "'2001-02-03'"), "i": lambda: str(self.r.randint(-1, 9)),
                "b": lambda: self.one("true", "false"), "d": lambda: self.one("date '1990-01-01'", "date '1985-06-07'"),
                "a": lambda: "ARRAY['a','b']", "j": lambda: self.one("'{\"k\": 1}'::jsonb", "'[1, 2]'::jsonb"), "n": lambda: self.one("1.5", "100"),
                "u": lambda: "'00000000-0000-0000-0000-000000000001'::uuid"}[kind]()
        if self.params is None or len(self.binds) > 8 or self.maybe(0.5):
            return text
        self.used.add("parameter")
        self.binds.append(text.split("::")[0].removeprefix("date ").strip("'").replace("NULL", "x").replace("ARRAY['a','b']", "{a,b}"))
        return f"${len(self.binds)}::{TYPES[kind]}"

    # A value and whether it was made of masked columns, for which it is named.
    def target(self, kind, where, number):
        before, self.touched = self.touched, False
        if where.mood == SHOWN and not where.grouped and self.maybe(0.1):
            text = self.some("shown subquery", kind, where)
        else:
            text = self.value(kind, where)
        name = f"{'m' if self.touched else 'c'}{number}"
        self.touched |= before
        return text, (name, kind)

    # What rows are chosen by.
    def condition(self, scope, depth=1):
        return self.value("b", Where(scope, depth, self.mood(CLEAR), False))

    # An item of a FROM list: its text, its alias, its columns.
    def item(self, depth=0):
        alias = self.name("a")
        if self.wanted:
            table, self.wanted = self.wanted, None
            return f"{table} AS {alias}", alias, [(alias, self.tables[table], table)]
        if self.maybe(0.12):
            return self.some("source", alias, depth)
        table = self.r.choice(OFTEN) if self.maybe(0.5) else self.r.choice(list(self.tables))
        return f"{table} AS {alias}", alias, [(alias, self.tables[table], table)]

    def has_id(self, scope, *aliases):
        return all(any(a == alias and any(c == "id" for c, _ in columns) for a, columns, _ in scope) for alias in aliases)

    # A query with so many columns: its text, its columns.
    def select(self, width, depth):
        return self.some("query" if depth > 1 else "plain query", width, depth)

    def query(self, depth=None):
        return self.select(self.r.randint(1, 4), depth or self.r.randint(1, 3))[0]

    def table_scope(self, table, alias=None):
        return [(alias or table, self.tables[table], table)]
