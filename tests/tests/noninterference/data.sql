-- Rows, as they are at the beginning of some sessions. SALT tells the servers apart: all that it is part of is masked.
SET LOCAL session_replication_role = replica;
SET LOCAL client_min_messages = error;
-- What sessions have made.
DO $$
DECLARE
    it record;
BEGIN
    FOR it IN SELECT oid FROM pg_class WHERE relkind IN ('r', 'v', 'm', 'S', 'p') AND relname LIKE 'made%' AND relpersistence <> 't' LOOP
        -- One that went with another is there no more.
        EXECUTE coalesce((SELECT format('DROP %s IF EXISTS %s CASCADE', CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass)
            FROM pg_class WHERE oid = it.oid), 'SELECT 1');
    END LOOP;
    -- In whatever schema was the first then.
    FOR it IN SELECT typnamespace::regnamespace AS place, typname, typtype FROM pg_type WHERE typtype IN ('d', 'e') AND typname LIKE 'made%' LOOP
        EXECUTE format('DROP %s IF EXISTS %s.%I CASCADE', CASE it.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, it.place, it.typname);
    END LOOP;
    FOR it IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'made%' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', it.nspname);
    END LOOP;
END $$;
TRUNCATE customers, orders, notes, other.notes, bulk, people, places, elder, younger, typed, labels, parents, children, holders, refers, shares, log, stamped, ruled,
    rooms, tenants, spied, crying, muttering, late, conditional, ruled_spy, ruled_if, secured, checked, in_domain, defaults RESTART IDENTITY;
SELECT setval('s', 1, false);

-- What differs is made in tables of the same names that come first; then the rows move as they are to stay, all of a table as long as each other (and short: a text of 127 bytes and more is aligned).
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['customers', 'notes', 'people', 'elder', 'younger', 'labels', 'holders', 'refers', 'shares', 'tenants'] LOOP
        EXECUTE format('CREATE TEMP TABLE %I (LIKE public.%1$I INCLUDING IDENTITY INCLUDING DEFAULTS INCLUDING GENERATED) ON COMMIT DROP', name);
    END LOOP;
END $$;

INSERT INTO customers (name, city, score) SELECT 'n' || i, (ARRAY['Graz', 'Linz', 'Wels'])[1 + i % 3], i % 4 FROM generate_series(1, 8) i;
INSERT INTO orders (customer_id, item, amount) SELECT 1 + i % 8, 'item ' || i, i * 3 FROM generate_series(1, 12) i;
INSERT INTO notes (customer_id, body) SELECT 1 + i % 8, 'note ' || i FROM generate_series(1, 10) i;
INSERT INTO other.notes SELECT i, i, 'other ' || i, lpad((abs(hashtext('SALTemail' || i)) % 100)::text, 2, '0') || '@o.example' FROM generate_series(1, 3) i;
INSERT INTO people SELECT i, NULL, 20 + i FROM generate_series(1, 9) i;
INSERT INTO places SELECT i, (ARRAY['Graz', 'Linz', 'Wels'])[1 + i % 3], i * i FROM generate_series(1, 9) i;
INSERT INTO elder SELECT i, NULL, 'e' || i FROM generate_series(1, 3) i;
INSERT INTO younger (id, note, extra) SELECT i, 'y' || i, i FROM generate_series(4, 6) i;
INSERT INTO typed (feels, p, word, span, doc, x, words) SELECT (ARRAY['sad', 'ok', 'glad'])[1 + i % 3]::mood, ROW(i, 'v' || i)::pair, 'w' || i, int4range(i * 10, i * 10 + 5),
    jsonb_build_object('k', i, 'list', jsonb_build_array(i, i + 1)), xmlparse(CONTENT '<r><a>' || i || '</a></r>'), to_tsvector('simple', 'word w' || i)
    FROM generate_series(1, 6) i;
INSERT INTO labels (id) SELECT generate_series(1, 4);
INSERT INTO parents SELECT i, 'c' || i FROM generate_series(1, 4) i;
INSERT INTO children SELECT i, 1 + i % 4, 'child ' || i FROM generate_series(1, 6) i;
INSERT INTO holders SELECT i, NULL, 'h' || i FROM generate_series(1, 3) i;
INSERT INTO shares SELECT i, i % 2, NULL, date '2030-01-01' FROM generate_series(1, 4) i;
INSERT INTO stamped SELECT i, 'S' || i FROM generate_series(1, 3) i;
INSERT INTO rooms SELECT i, (ARRAY['Graz', 'Linz', 'Wels'])[1 + i % 3], 'r' || i FROM generate_series(1, 6) i;
INSERT INTO tenants SELECT i, (ARRAY['Graz', 'Linz', 'Wels'])[1 + i % 3] FROM generate_series(1, 6) i;
INSERT INTO secured SELECT i, i * 150 FROM generate_series(1, 6) i;

-- (Where `ssn` is masked in part, its end is shown: that is alike.)
UPDATE customers SET ssn = lpad((abs(hashtext('SALTssn' || id)) % 1000)::text, 3, '0') || '-' || id || '7',
    email = CASE WHEN abs(hashtext('SALTnull' || id)) % 4 > 0 THEN chr(97 + abs(hashtext('SALTemail' || id)) % 26) || abs(hashtext('SALTemail' || id)) % 100 || '@x.example' END,
    salary = CASE WHEN abs(hashtext('SALTnull' || id)) % 5 > 0 THEN 1 + abs(hashtext('SALTsalary' || id)) % 5000 END,
    born = CASE WHEN abs(hashtext('SALTnull' || id)) % 3 > 0 THEN date '1970-01-01' + abs(hashtext('SALTborn' || id)) % 9000 END,
    tags = CASE WHEN abs(hashtext('SALTnull' || id)) % 6 > 0 THEN ARRAY['t' || abs(hashtext('SALTtags' || id)) % 3, 'u' || abs(hashtext('SALTtags' || id)) % 5] END,
    doc = jsonb_build_object('k', abs(hashtext('SALTdoc' || id)) % 10, 'l', abs(hashtext('SALTnull' || id)) % 2 = 0),
    balance = CASE WHEN abs(hashtext('SALTnull' || id)) % 7 > 0 THEN abs(hashtext('SALTbalance' || id)) % 100000 / 100.0 END,
    token = md5('SALTtoken' || id)::uuid, active = abs(hashtext('SALTactive' || id)) % 2 = 0;
UPDATE notes SET email = CASE WHEN abs(hashtext('SALTnull' || id)) % 3 > 0 THEN abs(hashtext('SALTemail' || id)) % 100 || '@n.example' END;
UPDATE people SET email = CASE WHEN abs(hashtext('SALTnull' || id)) % 2 > 0 THEN abs(hashtext('SALTemail' || id)) % 100 || '@p.example' END;
UPDATE elder SET email = CASE WHEN abs(hashtext('SALTnull' || id)) % 2 > 0 THEN abs(hashtext('SALTemail' || id)) % 100 || '@e.example' END;
UPDATE labels SET email = CASE WHEN abs(hashtext('SALTnull' || id)) % 3 > 0 THEN abs(hashtext('SALTemail' || id)) % 100 || '@L.example' END;
UPDATE holders SET email = abs(hashtext('SALTemail' || id)) % 100 || '-' || id || '@h.example';
INSERT INTO refers SELECT id, email, 'of ' || id FROM holders;
UPDATE shares SET email = abs(hashtext('SALTemail' || id)) % 100 || '@s.example';
UPDATE tenants SET email = CASE WHEN abs(hashtext('SALTnull' || id)) % 3 > 0 THEN abs(hashtext('SALTemail' || id)) % 100 || '@t.example' END;

DO $$
DECLARE
    name text;
    columns text;
BEGIN
    FOREACH name IN ARRAY ARRAY['customers', 'notes', 'people', 'elder', 'younger', 'labels', 'holders', 'refers', 'shares', 'tenants'] LOOP
        EXECUTE format('UPDATE %I t SET pad = repeat(''x'', %s - pg_column_size(t.*))', name, CASE name WHEN 'customers' THEN 230 ELSE 140 END);
        columns := (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = ('public.' || name)::regclass AND attnum > 0 AND attgenerated = '');
        EXECUTE format('INSERT INTO public.%I (%s) SELECT %2$s FROM %1$I ORDER BY id', name, columns);
        IF name IN ('customers', 'notes') THEN
            PERFORM setval(pg_get_serial_sequence('public.' || name, 'id'), 20);
        END IF;
        EXECUTE format('DROP TABLE pg_temp.%I', name);
    END LOOP;
END $$;
REFRESH MATERIALIZED VIEW kept;
REFRESH MATERIALIZED VIEW plain_kept;
ANALYZE;
