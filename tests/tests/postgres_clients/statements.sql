-- One statement a line, run in this order by sqllogictest's engines, the simple and the extended one. The latter knows few types:
-- others are cast to text.

-- Schema and data
CREATE TABLE item (id int PRIMARY KEY, label varchar(20) NOT NULL, price numeric(8,2), weight double precision, kind text, made date, parent int REFERENCES item, CHECK (price >= 0))
CREATE TABLE sale (item int REFERENCES item ON DELETE CASCADE, day date NOT NULL, count int NOT NULL DEFAULT 1, note text, PRIMARY KEY (item, day))
CREATE INDEX sale_day ON sale (day)
CREATE VIEW sold AS SELECT i.id, i.label, sum(s.count) AS count, sum(s.count * i.price) AS worth FROM item AS i LEFT JOIN sale AS s ON s.item = i.id GROUP BY i.id
INSERT INTO item VALUES (1, 'lamp', 19.90, 1.5, 'home', '2020-01-31', NULL), (2, 'bulb', 2.50, 0.05, 'home', '2020-02-29', 1), (3, 'desk', 240, 31.25, 'office', '2019-12-31', NULL), (4, 'drawer', 60.10, 8, 'office', NULL, 3), (5, '', NULL, NULL, NULL, '2021-06-01', 4)
INSERT INTO sale SELECT 1 + n % 4, date '2024-01-01' + n, 1 + n * 7 % 5, CASE WHEN n % 3 = 0 THEN 'every third' END FROM generate_series(0, 19) AS n
INSERT INTO item VALUES (1, 'again', 1)
INSERT INTO item VALUES (6, 'negative', -1)
INSERT INTO item VALUES (6, 'orphan', 1, 1, 'x', NULL, 99)
INSERT INTO item VALUES (6, NULL)
INSERT INTO item VALUES (6, 'much longer than twenty characters')
INSERT INTO item VALUES (6, 'x', 'no number')
INSERT INTO item (id, nothing) VALUES (6, 1)
INSERT INTO item (id, label) VALUES (6, 'new') ON CONFLICT DO NOTHING
INSERT INTO item (id, label) VALUES (6, 'newer') ON CONFLICT (id) DO UPDATE SET label = excluded.label || '!' RETURNING id, label
UPDATE item SET weight = weight * 2 WHERE kind = 'home'
UPDATE item AS i SET price = i.price + s.count FROM sold AS s WHERE s.id = i.id AND s.count > 10 RETURNING i.id, i.price
DELETE FROM item WHERE id = 6 RETURNING label
DELETE FROM item WHERE id = 3
MERGE INTO item AS i USING (VALUES (5, 'five'), (7, 'seven')) AS v (id, label) ON i.id = v.id WHEN MATCHED THEN UPDATE SET label = v.label WHEN NOT MATCHED THEN INSERT (id, label) VALUES (v.id, v.label)

-- Expressions
SELECT 7 / 2, 7 % 3, -7 / 2, 7.0 / 2, 2 ^ 10, 5 & 3, 5 | 3, 5 # 3, ~5, 1 << 4
SELECT 1 = 1, 1 <> 1, NULL = NULL, NULL IS NULL, 1 IS DISTINCT FROM NULL, NOT true, true AND NULL, false AND NULL
SELECT 3 BETWEEN 1 AND 5, 3 IN (1, 2), 3 NOT IN (1, 2), 3 IN (1, NULL), 'abc' LIKE 'a%', 'abc' ILIKE 'A_C', 'abc' SIMILAR TO '(a|b)+c', 'abc' ~ '^a.c$'
SELECT CASE WHEN 1 > 2 THEN 'a' ELSE 'b' END, COALESCE(NULL, 'c'), NULLIF(1, 1), GREATEST(1, 3, 2), LEAST(1, NULL, 2)
SELECT 'a' || 'b', upper('mixed'), length('grüße'), substring('hello' FROM 2 FOR 3), position('l' IN 'hello'), trim(both 'x' FROM 'xax'), overlay('hello' PLACING 'XX' FROM 2), lpad('7', 3, '0'), replace('aaa', 'a', 'b'), split_part('a,b,c', ',', 2)
SELECT date '2024-02-29' + 1, date '2024-03-01' - date '2024-02-01', timestamp '2024-01-31 10:00:00' + interval '1 month', extract(year FROM date '2024-02-29'), date_trunc('month', timestamp '2024-02-29 12:34:56'), age(date '2024-02-29', date '2023-01-01')
SELECT round(2.5), round(-2.567, 2), ceil(1.2), floor(-1.2), abs(-5), sign(-3), sqrt(16), mod(10, 3), trunc(1.999, 1), 'NaN'::float8, 'Infinity'::float8
SELECT ARRAY[1, 2, 3], ARRAY['a', NULL], (ARRAY[1, 2, 3])[2], array_length(ARRAY[1, 2], 1), 2 = ANY (ARRAY[1, 2]), 3 > ALL (ARRAY[1, 2]), ARRAY[1] || 2, '{}'::int[]
SELECT '{"a": {"b": [1, 2]}}'::jsonb #>> '{a,b,1}', ('{"a": 1}'::jsonb || '{"c": 2}')::text, '{"a": 1}'::jsonb ? 'a', jsonb_path_query('{"a": [1, 2, 3]}', '$.a[*] ? (@ > 1)')::text
SELECT ROW(1, 'a')::text, (ROW(1, 2) < ROW(1, 3)), md5('x'), encode('\xdeadbeef', 'base64'), 'x'::bytea::text, to_char(1234.5, '9,999.99'), to_number('12,454.8-', '99G999D9S')
SELECT 1/0
SELECT 'x'::int
SELECT 2147483647 + 1
SELECT sqrt(-1)
SELECT date '2024-02-30'
SELECT nothing FROM item
SELECT * FROM missing
SELECT missing(1)
SELECT 1 +
SELECT label FROM item GROUP BY kind
SELECT (SELECT id FROM item)
SELECT 1 UNION SELECT 'a'
SELECT sum(sum(count)) FROM sale

-- Queries
SELECT * FROM sold ORDER BY id
SELECT i.label, s.day, s.count FROM item AS i, sale AS s WHERE s.item = i.id AND i.kind = 'home' ORDER BY 2, 1 LIMIT 5 OFFSET 2
SELECT * FROM item NATURAL JOIN (SELECT 1 AS id, 'extra' AS extra) AS e
SELECT a.id, b.id FROM item AS a FULL JOIN item AS b ON a.parent = b.id ORDER BY 1, 2
SELECT id, n FROM item CROSS JOIN LATERAL generate_series(1, id) AS n WHERE id < 4 ORDER BY 1, 2
SELECT i.id, l.day FROM item AS i LEFT JOIN LATERAL (SELECT day FROM sale WHERE item = i.id ORDER BY day DESC LIMIT 1) AS l ON true ORDER BY 1
SELECT kind, count(*), count(price), sum(price), avg(weight), min(made), max(label), string_agg(label, ',' ORDER BY id), bool_and(price > 1) FROM item GROUP BY kind HAVING count(*) > 0 ORDER BY kind NULLS FIRST
SELECT kind, made IS NULL AS undated, count(*) FROM item GROUP BY GROUPING SETS ((kind), (made IS NULL), ()) ORDER BY 1, 2, 3
SELECT kind, label, count(*) FROM item GROUP BY CUBE (kind, label) ORDER BY 1, 2, 3
SELECT kind, label, grouping(kind, label) FROM item GROUP BY ROLLUP (kind, label) ORDER BY 1, 2, 3
SELECT count(*) FILTER (WHERE count > 2), percentile_cont(0.5) WITHIN GROUP (ORDER BY count), array_agg(DISTINCT count ORDER BY count) FROM sale
SELECT day, count, sum(count) OVER (ORDER BY day ROWS BETWEEN 2 PRECEDING AND CURRENT ROW), row_number() OVER w, rank() OVER (ORDER BY count), lag(count, 1, 0) OVER w, first_value(day) OVER w FROM sale WHERE item = 1 WINDOW w AS (PARTITION BY item ORDER BY day) ORDER BY day
SELECT DISTINCT ON (item) item, day FROM sale ORDER BY item, day DESC
SELECT DISTINCT count FROM sale ORDER BY count
SELECT id FROM item UNION ALL SELECT count FROM sale WHERE item = 2 ORDER BY 1
SELECT id FROM item INTERSECT SELECT item FROM sale ORDER BY 1
SELECT id FROM item EXCEPT SELECT item FROM sale ORDER BY 1
(SELECT 1 UNION SELECT 2) EXCEPT SELECT 2
VALUES (1, 'one'), (2, 'two') ORDER BY 1 DESC
TABLE sold ORDER BY id LIMIT 1
SELECT * FROM item WHERE EXISTS (SELECT FROM sale WHERE item = id AND count = 5) ORDER BY id
SELECT id FROM item WHERE price > ALL (SELECT price FROM item WHERE kind = 'home') ORDER BY id
SELECT id FROM item WHERE (kind, id) IN (SELECT kind, max(id) FROM item GROUP BY kind) ORDER BY id
SELECT id, (SELECT count(*) FROM sale WHERE item = i.id) FROM item AS i ORDER BY id
WITH RECURSIVE up (id, root, depth) AS (SELECT id, id, 0 FROM item WHERE parent IS NULL UNION ALL SELECT i.id, up.root, depth + 1 FROM item AS i JOIN up ON i.parent = up.id) SELECT * FROM up ORDER BY 1
WITH best AS MATERIALIZED (SELECT item, sum(count) AS n FROM sale GROUP BY item), more AS (SELECT * FROM best WHERE n > 5) SELECT m.item, b.n FROM more AS m JOIN best AS b USING (item) ORDER BY 1
WITH gone AS (DELETE FROM sale WHERE day > '2024-01-18' RETURNING *), kept AS (SELECT count(*) AS n FROM sale) SELECT g.day, k.n FROM gone AS g, kept AS k ORDER BY 1
SELECT id, label FROM item TABLESAMPLE SYSTEM (100) ORDER BY id FETCH FIRST 2 ROWS WITH TIES
SELECT * FROM generate_series(1, 3) WITH ORDINALITY AS g (n, o)
SELECT * FROM unnest(ARRAY[1, 2], ARRAY['a', 'b', 'c']) AS u (n, t)
SELECT * FROM json_to_recordset('[{"a": 1, "b": "x"}, {"a": 2}]') AS r (a int, b text)
SELECT * FROM ROWS FROM (generate_series(1, 2), generate_series(1, 3)) AS r (a, b)
SELECT id FROM item ORDER BY price DESC NULLS LAST, id FOR UPDATE SKIP LOCKED
SELECT relname::text, relkind::text FROM pg_class WHERE relname IN ('item', 'sale', 'sold', 'sale_day') ORDER BY 1
SELECT column_name::text, data_type::text, is_nullable::text FROM information_schema.columns WHERE table_name = 'item' ORDER BY ordinal_position
EXPLAIN (COSTS off) SELECT 1 FROM item WHERE false

-- State
BEGIN
SAVEPOINT one
INSERT INTO item (id, label) VALUES (8, 'eight')
SELECT count(*) FROM item
ROLLBACK TO one
SELECT count(*) FROM item
SELECT 1/0
SELECT 1
ROLLBACK
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY
DELETE FROM sale
COMMIT
PREPARE find (int) AS SELECT label FROM item WHERE id = $1
EXECUTE find (1)
EXECUTE find ('x')
EXECUTE find
DEALLOCATE find
EXECUTE find (1)
BEGIN
DECLARE c SCROLL CURSOR FOR SELECT id FROM item ORDER BY id
FETCH 2 FROM c
FETCH BACKWARD 1 FROM c
MOVE LAST IN c
FETCH RELATIVE -1 FROM c
CLOSE c
FETCH c
COMMIT
SET statement_timeout = '1h'
SHOW statement_timeout
SELECT set_config('statement_timeout', '2h', false), current_setting('statement_timeout')
RESET statement_timeout
SET LOCAL lock_timeout = 1
SET nothing = 1
SELECT current_database()::text, current_user::text, session_user::text
LISTEN news
NOTIFY news, 'heard'
UNLISTEN news
LOCK TABLE item
CREATE FUNCTION half (n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT n / 2'
SELECT half(7), half(NULL)
CREATE PROCEDURE add (n int) LANGUAGE plpgsql AS $$ BEGIN INSERT INTO item (id, label) VALUES (n, 'added'); IF n > 90 THEN RAISE EXCEPTION 'too many: %', n USING ERRCODE = 'XX123', DETAIL = 'the detail', HINT = 'the hint'; END IF; END $$
CALL add (20)
CALL add (99)
DO $$ BEGIN PERFORM 1/0; EXCEPTION WHEN division_by_zero THEN RAISE NOTICE 'caught'; END $$
SELECT label FROM item WHERE id >= 20
CREATE TEMP TABLE scratch AS SELECT id, label FROM item WITH NO DATA
INSERT INTO scratch SELECT id, label FROM item WHERE id < 3
ALTER TABLE scratch ADD COLUMN more int DEFAULT 5, ALTER label TYPE text, RENAME TO scraps
ALTER TABLE scratch ADD COLUMN more int DEFAULT 5, ALTER label TYPE text
SELECT * FROM scratch ORDER BY id
TRUNCATE scratch
SELECT count(*) FROM scratch
COMMENT ON TABLE item IS 'things'
GRANT SELECT ON item TO PUBLIC
REVOKE SELECT ON item FROM PUBLIC
ANALYZE item
VACUUM item
REINDEX INDEX sale_day
CREATE MATERIALIZED VIEW summary AS SELECT kind, count(*) AS n FROM item GROUP BY kind
REFRESH MATERIALIZED VIEW summary
SELECT * FROM summary ORDER BY kind
CREATE SEQUENCE numbers START 5
SELECT nextval('numbers'), nextval('numbers'), currval('numbers')
DISCARD ALL
