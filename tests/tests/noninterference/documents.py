# JSON, XML, text search.
from maker import *

templates("fallible j", "json functions", "to_jsonb({t})", "jsonb_build_object('k', {t})", "jsonb_build_array({i}, {t})", "jsonb_set({j}, '{{k}', '9')", "({j} || {j})", "({j} - 'k')", "jsonb_strip_nulls({j})",
          "({t})::jsonb", "jsonb_path_query_array({j}, '$.*')", "jsonb_path_query_first({j}, '$.k')")
templates("fallible b", "json functions", "({j} @> '{{\"k\": 1}')", "({j} ? 'k')", "jsonb_path_exists({j}, '$.k ? (@ > 4)')", "({j} @@ '$.k > 4')", "jsonb_exists({j}, 'k')")
templates("fallible t", "json functions", "jsonb_typeof({j})", "jsonb_pretty({j})", "json_build_object('k', {t})::text", "json_object(ARRAY['k'], ARRAY[{t}])::text")
templates("fallible i", "json functions", "jsonb_array_length({j})")
templates("fallible t", "xml", "xmlelement(name e, {t})::text", "xmlforest({t} AS a, {i} AS b)::text", "xmlconcat(xmlelement(name e, {t}), xmlcomment('c'))::text", "xmlpi(name p, 'x')::text",
          "(xpath('/r/a/text()', xmlparse(DOCUMENT '<r><a>1</a></r>')))[1]::text", "xmlparse(CONTENT {t})::text", "xmlserialize(CONTENT xmlelement(name e, {t}) AS text)")
templates("fallible b", "xml", "xml_is_well_formed({t})", "xmlexists('//a' PASSING ('<r><a>1</a></r>'::xml))", "(xmlparse(CONTENT {t}) IS DOCUMENT)")
templates("fallible t", "xml that reads", "query_to_xml('SELECT ssn FROM customers', true, true, '')::text", "table_to_xml('customers', true, false, '')::text", "schema_to_xml('public', true, false, '')::text",
          "query_to_xmlschema('SELECT 1', true, true, '')::text", refused="they read what the gateway does not see")
templates("fallible t", "text search", "to_tsvector('simple', {t})::text", "to_tsquery('simple', 'a & b')::text", "plainto_tsquery('simple', {t})::text", "ts_headline('simple', {t}, 'a'::tsquery)", "strip(to_tsvector('simple', {t}))::text")
templates("fallible b", "text search", "(to_tsvector('simple', {t}) @@ to_tsquery('simple', 'a | 9'))")
templates("fallible n", "text search", "ts_rank(to_tsvector('simple', {t}), 'a'::tsquery)::numeric")
templates("fallible t", "text search that reads", "ts_rewrite('a & b'::tsquery, 'SELECT ''a''::tsquery, ''b''::tsquery')::text",
          refused="it runs the text that it is given")


@makes("source", "json functions")
def jsonb_each(m, alias, depth):
    what = m.one("jsonb_each_text('{\"k\": 1, \"l\": 2}'::jsonb)", "jsonb_each('{\"k\": {\"m\": 1}}'::jsonb)", "json_each_text('{\"k\": 1}')")
    return f"{what} AS {alias}(id, v)", alias, [(alias, [], None)]


@makes("source", "json functions")
def jsonb_to_record(m, alias, depth):
    what = m.one(f"jsonb_to_record({m.value('j', Where([], 1, CLEAR, False))}) AS {alias}(id int, k text)", f"jsonb_to_recordset('[{{\"id\": 1, \"k\": \"a\"}}, {{\"id\": 2}}]') AS {alias}(id int, k text)",
                 f"jsonb_populate_record(NULL::pair, '{{\"k\": 3}}') AS {alias}(id, k)")
    return what, alias, [(alias, [("id", "i"), ("k", "t")], None)]


@makes("source", "xml")
def xmltable(m, alias, depth):
    return f"XMLTABLE('//a' PASSING ('<r><a>1</a><a>2</a></r>'::xml) COLUMNS id int PATH '.', k text PATH 'name()') AS {alias}", alias, [(alias, [("id", "i"), ("k", "t")], None)]


statements("json functions", 2,
           "SELECT t.id, e.key, e.value FROM typed t, jsonb_each(t.doc) e ORDER BY 1, 2", "SELECT t.id, e FROM typed t, jsonb_array_elements(t.doc -> 'list') e",
           "SELECT t.id, e.k FROM typed t, jsonb_to_record(t.doc) AS e(k int) ORDER BY 1", "SELECT id, jsonb_path_query(doc, '$.list[*]') FROM typed ORDER BY 1",
           "SELECT c.id, e.key FROM customers c, jsonb_each(c.doc) e", "SELECT c.id, e.k FROM customers c, jsonb_to_record(c.doc) AS e(k int)",
           "SELECT c.id, jsonb_path_query(c.doc, '$.k') FROM customers c", "SELECT c.id, u FROM customers c, unnest(c.tags) u", "SELECT id, jsonb_object_agg(name, city) FROM customers GROUP BY id ORDER BY id")


statements("xml", 2,
           "SELECT id, xpath('/r/a/text()', x) FROM typed ORDER BY id", "SELECT t.id, k.a FROM typed t, XMLTABLE('/r' PASSING t.x COLUMNS a int PATH 'a') k ORDER BY 1",
           "SELECT xmlagg(xmlelement(name c, name) ORDER BY id) FROM customers", "SELECT xmlforest(name, city) FROM customers ORDER BY id", "SELECT xmlforest(name, ssn) FROM customers",
           "SELECT id, xmlelement(name c, xmlattributes(city AS where), name) FROM customers ORDER BY id",
           "SELECT k.v FROM customers c, XMLTABLE('/r' PASSING xmlelement(name r, c.ssn) COLUMNS v text PATH '.') k")


statements("text search", 1,
           "SELECT id, words FROM typed WHERE words @@ 'w2 | word'::tsquery ORDER BY id", "SELECT id, to_tsvector('simple', name) FROM customers ORDER BY id",
           "SELECT id FROM customers WHERE to_tsvector('simple', coalesce(email, '')) @@ 'a'::tsquery", "SELECT id, ts_rank(words, 'word'::tsquery) FROM typed ORDER BY id")


statements("text search that reads", 1, "!SELECT * FROM ts_stat('SELECT to_tsvector(''simple'', ssn) FROM customers')", "!SELECT word FROM ts_stat('SELECT words FROM typed')",
           refused="it runs the text that it is given")
