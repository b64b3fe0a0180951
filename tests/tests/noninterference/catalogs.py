# What the server knows of itself: statistics, sizes, where rows lie, who does what.
from maker import *

statements("statistics", 3,
           *("!SELECT " + it for it in (
               "most_common_vals FROM pg_stats WHERE tablename = 'customers' ORDER BY attname", "histogram_bounds::text FROM pg_stats WHERE attname = 'ssn'", "n_distinct, null_frac, avg_width FROM pg_stats WHERE tablename = 'customers' ORDER BY attname",
               "* FROM pg_statistic", "* FROM pg_stats_ext", "most_common_vals FROM pg_stats_ext WHERE statistics_name = 'by_ssn'", "expr, n_distinct FROM pg_stats_ext_exprs", "stxdmcv FROM pg_statistic_ext_data",
               "s.m FROM (SELECT most_common_vals AS m FROM pg_stats) s", "count(*) FROM pg_stats WHERE most_common_vals::text LIKE '%9%'")),
           "ANALYZE", "!ANALYZE customers", "ANALYZE orders (item)", ["ALTER TABLE orders ALTER item SET STATISTICS 10", "ANALYZE orders"], ["CREATE STATISTICS @@ ON item, amount FROM orders", "ANALYZE orders", "DROP STATISTICS @@"],
           "SELECT stxname, stxkeys, stxkind FROM pg_statistic_ext ORDER BY 1", "SELECT attname, attstattarget, attmissingval FROM pg_attribute WHERE attrelid = 'customers'::regclass ORDER BY attnum",
           refused="statistics hold values, and ANALYZE of a masked table is not needed")

statements("sizes", 3,
           "SELECT pg_relation_size('customers')", "SELECT pg_total_relation_size('orders'), pg_table_size('people_low'), pg_indexes_size('customers')", "SELECT relname, relpages, reltuples FROM pg_class WHERE relname IN ('customers', 'orders', 'notes') ORDER BY 1",
           "SELECT pg_column_size(id), pg_column_size(name) FROM customers ORDER BY id", "SELECT pg_column_compression(name) FROM customers", "SELECT ctid, id FROM orders ORDER BY id", "SELECT id FROM orders WHERE ctid = '(0,1)'",
           "!SELECT ctid FROM customers WHERE ctid > '(0,3)'", "SELECT tableoid::regclass, id FROM people ORDER BY id", "SELECT tableoid::regclass, count(*) FROM elder GROUP BY 1 ORDER BY 1", "SELECT id, pg_column_size(ssn), pg_column_size(doc) FROM customers",
           "SELECT pg_column_size(c) FROM customers c", "SELECT pg_size_pretty(pg_relation_size('orders'))", "SELECT ctid, ssn FROM customers ORDER BY id", "SELECT max(ctid::text) FROM customers", "SELECT id FROM customers ORDER BY ctid",
           refused="where a row lies tells how long it is, and those before it")

statements("transaction ids", 2,
           "SELECT xmin = xmin, cmax FROM orders ORDER BY id LIMIT 2", "SELECT count(DISTINCT xmin::text) FROM orders", "SELECT xmin, id FROM customers ORDER BY id", "SELECT txid_current_if_assigned() IS NULL", "SELECT age(xmin) > 0 FROM orders LIMIT 1",
           ["BEGIN", "UPDATE customers SET city = city WHERE id = 1", "SELECT count(*) FROM orders WHERE xmin::text = txid_current()::text", "SELECT id, xmax = xmin FROM customers ORDER BY id", "ROLLBACK"],
           "SELECT pg_current_xact_id_if_assigned()", "SELECT txid_status(1)")

statements("views of the server", 3,
           "SELECT relname, last_vacuum FROM pg_stat_user_tables WHERE relname = 'orders'", "SELECT count(*) FROM pg_stat_user_indexes", "SELECT schemaname, relname FROM pg_statio_user_tables ORDER BY 1, 2", "SELECT count(*) FROM pg_stat_progress_vacuum",
           "!SELECT query FROM pg_stat_activity", "!SELECT statement FROM pg_prepared_statements", "!SELECT * FROM pg_cursors", "!SELECT * FROM pg_replication_slots", "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2",
           "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1", "SELECT rulename, definition FROM pg_rules WHERE schemaname = 'public' ORDER BY 1, 2", "SELECT policyname, qual FROM pg_policies ORDER BY 1, 2",
           "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1", "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, oid",
           "SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef ORDER BY oid", "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' AND table_name NOT LIKE 'made%' ORDER BY 1, ordinal_position",
           "SELECT pg_get_partkeydef('people'::regclass), pg_get_viewdef('v_expr'::regclass), pg_get_functiondef('reader(int)'::regprocedure)", "SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition AND relname NOT LIKE 'made%' ORDER BY 1",
           "SELECT sequencename, last_value FROM pg_sequences WHERE sequencename NOT LIKE 'made%' ORDER BY 1", "SELECT version()", "SELECT current_user, session_user, current_schemas(true)", "SELECT to_regclass('customers'), 'customers'::regclass::oid",
           "SELECT has_column_privilege('customers', 'ssn', 'SELECT')", "SELECT pg_describe_object('pg_class'::regclass, 'customers'::regclass, 0)", refused="others' statements, which may hold values")
