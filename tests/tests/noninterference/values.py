# Values: what cannot fail and may be made of masked columns, and what can fail.
from maker import *

templates("value t", "text functions", "upper({t})", "lower({t})", "initcap({t})", "left({t}, {#})", "right({t}, {#})", "reverse({t})", "md5({t})", "concat({t}, {i})",
          "concat_ws('-', {t}, {d})", "substr({t}, {#})", "substr({t}, {#}, {#})", "split_part({t}, '-', {#})", "replace({t}, '9', 'n')", "translate({t}, '0123', 'abcd')",
          "lpad({t}, {#})", "rpad({t}, {#}, 'xy')", "btrim({t})", "ltrim({t}, {t})", "quote_literal({t})", "quote_nullable({t})", "quote_ident({t})", "pg_typeof({t})::text")
templates("value t", "operators and casts", "({t} || {t})", "({t} || {i})", "({i})::text", "({d})::text", "({n})::text", "({u})::text", "({b})::text", "({a})::text", "({j})::text",
          "({t})::varchar(3)", "CAST({t} AS char(4))::text", "({t} COLLATE \"C\")", "({a})[{#}]", "({j} ->> 'k')", "({j} ->> 0)", "({j} #>> '{{k}')")
templates("value i", "text functions", "length({t})", "octet_length({t})", "bit_length({t})", "strpos({t}, {t})", "cardinality({a})", "num_nulls({t}, {d}, {i})", "num_nonnulls({t}, {n})")
templates("value b", "comparisons", "({t} = {t})", "({i} < {i})", "({d} >= {d})", "({n} <> {n})", "({u} = {u})", "({t} IS NULL)", "({i} IS NOT NULL)", "({t} IS DISTINCT FROM {t})",
          "({t} IN ({t}, {t}))", "({t} = ANY ({a}))", "({i} BETWEEN {i} AND {i})", "starts_with({t}, {t})")
templates("value b", "conditions", "({b} AND {b})", "({b} OR {b})", "(NOT {b})", "({b} IS TRUE)", "({b} IS NOT UNKNOWN)")
templates("value d", "choices", "greatest({d}, {d})")
templates("value a", "choices", "ARRAY[{t}, {t}]")
templates("value j", "json operators", "({j} -> 'k')", "({j} -> 0)")
templates("value n", "operators and casts", "({i})::numeric", "least({n}, {n})")
templates("value u", "choices", "greatest({u}, {u})")
for kind in TYPES:
    templates(f"value {kind}", "choices", f"CASE WHEN {{b}} THEN {{{kind}}} ELSE {{{kind}}} END", f"coalesce({{{kind}}}, {{{kind}}})", f"nullif({{{kind}}}, {{{kind}}})" if kind in "tidnu" else
              f"CASE {{i}} WHEN {{i}} THEN {{{kind}}} END")
templates("value t", "choices", "greatest({t}, {t})")

templates("fallible t", "text functions", "format('%s', {t})", "repeat({t}, {#})", "to_char({d}, 'YYYY')", "to_char({n}, '999D9')", "regexp_replace({t}, '[0-9]', 'n')", "encode(convert_to({t}, 'UTF8'), 'hex')",
          "array_to_string({a}, ',')", "overlay({t} placing 'x' from 1)", "chr({i})", "substring({t} from '[0-9]+')", "(regexp_match({t}, '[a-z]'))[1]", "to_hex({i})")
templates("fallible i", "arithmetic", "({i} + {i})", "({i} * {i})", "({i} / {i})", "({i} % 3)", "abs({i})", "mod({i}, {i})", "width_bucket({i}, 0, 9, 3)", "({n})::int", "round({n})::int")
templates("fallible i", "casts that fail", "({t})::int", "({t})::oid::int", "to_number({t}, '999')::int", "({j} -> 'k')::int")
templates("fallible i", "text functions", "ascii({t})", "array_length({a}, 1)", "extract(year FROM {d})::int", "date_part('day', {d})::int", "hashtext({t})")
templates("fallible b", "comparisons", "({t} LIKE '9%')", "({t} ILIKE {t})", "({t} ~ '^9')", "({t} SIMILAR TO '9%')", "(({i}, {t}) = ({i}, {t}))", "(ROW({i}, {t}) < ROW({i}, {t}))", "({a} @> {a})", "({a} && {a})",
          "({t} < ALL ({a}))", "(({d}, {d}) OVERLAPS ({d}, {d}))", "({i} <@ int4range(1, 9))")
templates("fallible d", "arithmetic", "({d} + {#})", "({d} + {i})", "date_trunc('year', {d})::date", "make_date(2000, {i}, {#})")
templates("fallible d", "casts that fail", "({t})::date", "to_date({t}, 'YYYY')")
templates("fallible a", "arrays", "string_to_array({t}, '-')", "array_append({a}, {t})", "array_remove({a}, {t})", "({a} || {t})", "({a})[1:2]", "regexp_split_to_array({t}, '-')", "array_fill({t}, ARRAY[2])")
templates("fallible n", "arithmetic", "({n} * {i})", "({n} / {i})", "sqrt({n})", "power({n}, 2)", "trunc({n})", "({t})::numeric")
templates("fallible u", "casts that fail", "md5({t})::uuid", "({t})::uuid")
templates("fallible t", "the owner's code", "reader({i})", "loud({t})", refused="functions of the owner's are not known to be harmless")
templates("fallible i", "the owner's code", "plus_one({i})", "(@+ {i})", refused="functions and operators of the owner's are not known to be harmless")
templates("fallible b", "the owner's code", "({t} ==> {i})", refused="operators of the owner's are not known to be harmless")
templates("fallible t", "the owner's types", "({t})::short", "({t})::mood::text")
templates("fallible t", "the owner's types", "({t})::free_word", "ROW({i}, {t})::pair::varbit::text", "(ROW({i}, {t})::pair).v", refused="casts of such types may run code that reads masked columns")
templates("fallible i", "sizes", "pg_column_size({t})", "pg_column_size({j})")
templates("fallible t", "settings", "current_setting('application_name')", "current_setting('app.city', true)")
templates("fallible t", "effects", "set_config('application_name', {t}, false)", "set_config('app.city', {t}, false)")
templates("fallible i", "effects", "nextval('s')::int", "setval('s', greatest({i}, 1))::int", "pg_backend_pid() * 0")
templates("fallible b", "effects", "pg_try_advisory_xact_lock({i})", "(pg_notify('c', {t}) IS NULL)", "(pg_sleep(0) IS NULL)")


# A value of another row.
def subquery(m, kind, where):
    text, alias, scope = m.item()
    condition = f"{alias}.id = {m.r.randint(1, 8)}" if m.has_id(scope, alias) else m.condition(scope)
    if where.scope and not where.grouped and m.maybe(0.3) and m.has_id(scope, alias) and m.has_id(where.scope, where.scope[0][0]):
        condition = f"{alias}.id = {where.scope[0][0]}.id"
    return f"(SELECT {m.value(kind, Where(scope, max(where.depth - 1, 0), where.mood, False))} FROM {text} WHERE {condition} LIMIT 1)"


makes("shown subquery", "subqueries", name="(SELECT masked ...)")(subquery)
for kind in TYPES:
    makes(f"fallible {kind}", "subqueries", 2, name=f"(SELECT {kind} ...)")(lambda m, where, kind=kind: subquery(m, kind, where))


@makes("fallible b", "subqueries", 2)
def exists(m, where):
    return f"EXISTS ({m.select(1, 1)[0]})"


@makes("fallible b", "subqueries", 2)
def in_subquery(m, where):
    text, _, scope = m.item()
    return f"({m.value('i', where.clear())} IN (SELECT {m.value('i', Where(scope, 1, m.mood(CLEAR), False))} FROM {text}))"


@makes("fallible a", "subqueries", 2)
def array_of_subquery(m, where):
    text, _, scope = m.item()
    return f"ARRAY(SELECT {m.value('t', Where(scope, 1, where.mood, False))} FROM {text} ORDER BY {m.value('i', Where(scope, 0, CLEAR, False))} LIMIT 3)"


# Aggregates.
def aggregate(text):
    def make(m, where):
        inner = where._replace(depth=1, grouped=False)
        made = m.fill(text, inner)
        if not text.endswith("]") and m.maybe(0.25):
            m.used.add("FILTER")
            condition = m.value("b", inner._replace(mood=CLEAR if where.mood == CLEAR else m.mood(SHOWN)))
            call, cast, kind = made.rpartition(")::") if text.endswith(("::int", "::jsonb", "::numeric")) else (made.removesuffix(")"), "", "")
            made = f"{call}) FILTER (WHERE {condition}){'::' if cast else ''}{kind}"
        return made
    return make


AGGREGATES = {
    "t": ["max({t})", "min({t})", "string_agg({t}, ',')"], "i": ["count(*)", "count({t})", "sum({i})::int", "max({i})", "count(DISTINCT {T})", "min({i})"],
    "b": ["bool_or({b})", "bool_and({b})", "every({b})"], "d": ["max({d})", "min({d})"], "a": ["array_agg({t})"], "j": ["json_agg({t})::jsonb", "jsonb_agg({T})"],
    "n": ["avg({i})", "max({n})"], "u": ["(array_agg({u}))[1]"],
}
for kind, texts in AGGREGATES.items():
    for text in texts:
        makes(f"aggregate {kind}", "aggregates", name=text)(aggregate(text))
for text in ("percentile_cont(0.5) WITHIN GROUP (ORDER BY {I})", "mode() WITHIN GROUP (ORDER BY {I})::numeric", "corr({I}, {I})::numeric", "stddev({I})"):
    makes("aggregate n", "aggregates", name=text)(aggregate(text))
makes("aggregate t", "the owner's code", name="latest({t})", refused="aggregates of the owner's are not known to be harmless")(aggregate("latest({t})"))


@makes("aggregate t", "aggregates")
def ordered_aggregate(m, where):
    inner = where._replace(depth=1, grouped=False)
    return f"string_agg({m.value('t', inner)}, ',' ORDER BY {m.value('i', inner._replace(mood=m.mood(CLEAR)))})"
