-- The nine tables of TPC-C (clause 1.3), small: one warehouse, as the specification's population rules have them in kind.
CREATE TABLE warehouse (
    w_id integer PRIMARY KEY, w_name varchar(10), w_street_1 varchar(20), w_street_2 varchar(20), w_city varchar(20),
    w_state char(2), w_zip char(9), w_tax numeric(4, 4), w_ytd numeric(12, 2)
);
CREATE TABLE district (
    d_id integer, d_w_id integer REFERENCES warehouse, d_name varchar(10), d_street_1 varchar(20), d_street_2 varchar(20),
    d_city varchar(20), d_state char(2), d_zip char(9), d_tax numeric(4, 4), d_ytd numeric(12, 2), d_next_o_id integer,
    PRIMARY KEY (d_w_id, d_id)
);
CREATE TABLE customer (
    c_id integer, c_d_id integer, c_w_id integer, c_first varchar(16), c_middle char(2), c_last varchar(16),
    c_street_1 varchar(20), c_street_2 varchar(20), c_city varchar(20), c_state char(2), c_zip char(9), c_phone char(16),
    c_since timestamptz, c_credit char(2), c_credit_lim numeric(12, 2), c_discount numeric(4, 4), c_balance numeric(12, 2),
    c_ytd_payment numeric(12, 2), c_payment_cnt integer, c_delivery_cnt integer, c_data varchar(500),
    PRIMARY KEY (c_w_id, c_d_id, c_id), FOREIGN KEY (c_w_id, c_d_id) REFERENCES district
);
CREATE INDEX ON customer (c_w_id, c_d_id, c_last, c_first);
CREATE TABLE history (
    h_c_id integer, h_c_d_id integer, h_c_w_id integer, h_d_id integer, h_w_id integer, h_date timestamptz,
    h_amount numeric(6, 2), h_data varchar(24), FOREIGN KEY (h_c_w_id, h_c_d_id, h_c_id) REFERENCES customer
);
CREATE TABLE orders (
    o_id integer, o_d_id integer, o_w_id integer, o_c_id integer, o_entry_d timestamptz, o_carrier_id integer, o_ol_cnt integer,
    o_all_local integer, PRIMARY KEY (o_w_id, o_d_id, o_id), FOREIGN KEY (o_w_id, o_d_id, o_c_id) REFERENCES customer
);
CREATE TABLE new_order (
    no_o_id integer, no_d_id integer, no_w_id integer, PRIMARY KEY (no_w_id, no_d_id, no_o_id),
    FOREIGN KEY (no_w_id, no_d_id, no_o_id) REFERENCES orders
);
CREATE TABLE item (i_id integer PRIMARY KEY, i_im_id integer, i_name varchar(24), i_price numeric(5, 2), i_data varchar(50));
CREATE TABLE stock (
    s_i_id integer REFERENCES item, s_w_id integer REFERENCES warehouse, s_quantity integer, s_dist_01 char(24), s_dist_02 char(24),
    s_ytd integer, s_order_cnt integer, s_remote_cnt integer, s_data varchar(50), PRIMARY KEY (s_w_id, s_i_id)
);
CREATE TABLE order_line (
    ol_o_id integer, ol_d_id integer, ol_w_id integer, ol_number integer, ol_i_id integer, ol_supply_w_id integer,
    ol_delivery_d timestamptz, ol_quantity integer, ol_amount numeric(6, 2), ol_dist_info char(24),
    PRIMARY KEY (ol_w_id, ol_d_id, ol_o_id, ol_number), FOREIGN KEY (ol_w_id, ol_d_id, ol_o_id) REFERENCES orders
);
INSERT INTO warehouse VALUES (1, 'weir', '1 Bank', 'left', 'Aare', 'BE', '300011111', 0.07, 300000);
INSERT INTO district
    SELECT d, 1, 'd' || d, d || ' Bank', 'right', 'Aare', 'BE', '300011111', 0.05, 30000, 31 FROM generate_series(1, 2) AS d;
-- Last names are of three syllables (clause 4.3.2.3).
INSERT INTO customer
    SELECT n, d, 1, 'first' || n * 7 % 30, 'OE',
        (ARRAY['BAR', 'OUGHT', 'ABLE', 'PRI', 'PRES', 'ESE', 'ANTI', 'CALLY', 'ATION', 'EING'])[1 + n % 10] || 'BARBAR',
        n || ' Bank', 'left', 'Aare', 'BE', '300011111', '555-0100-' || n, '2024-01-01', CASE WHEN n % 10 = 3 THEN 'BC' ELSE 'GC' END,
        50000, 0.1, -10, 10, 1, 0, repeat('data ', 60)
    FROM generate_series(1, 2) AS d, generate_series(1, 30) AS n;
INSERT INTO item SELECT n, n, 'item ' || n, n % 100 + 1, 'data' FROM generate_series(1, 100) AS n;
INSERT INTO stock SELECT n, 1, 10 + n % 90, 'one', 'two', 0, 0, 0, 'data' FROM generate_series(1, 100) AS n;
INSERT INTO orders
    SELECT n, d, 1, n, '2024-01-01', CASE WHEN n < 22 THEN 1 + n % 10 END, 5, 1
    FROM generate_series(1, 2) AS d, generate_series(1, 30) AS n;
INSERT INTO new_order SELECT n, d, 1 FROM generate_series(1, 2) AS d, generate_series(22, 30) AS n;
INSERT INTO order_line
    SELECT n, d, 1, l, 1 + n * l % 100, 1, CASE WHEN n < 22 THEN timestamptz '2024-01-01' END, 5, n, 'one'
    FROM generate_series(1, 2) AS d, generate_series(1, 30) AS n, generate_series(1, 5) AS l;
