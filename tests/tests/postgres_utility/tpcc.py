# The five transactions of TPC-C (clauses 2.4 to 2.8), as asyncpg sends them: prepared statements. The specification says what they
# read and write; the text of these is ours. Everything is chosen in turn instead of by chance.
import asyncio
import datetime
import sys

import asyncpg
from steps import failed, said

W, NOW = 1, datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc)
SYLLABLES = ["BAR", "OUGHT", "ABLE", "PRI", "PRES", "ESE", "ANTI", "CALLY", "ATION", "EING"]


async def by_last_name(c, d, last):
    count = await c.fetchval("SELECT count(c_id) FROM customer WHERE c_w_id = $1 AND c_d_id = $2 AND c_last = $3", W, d, last)
    rows = await c.fetch("SELECT c_id, c_first, c_balance FROM customer WHERE c_w_id = $1 AND c_d_id = $2 AND c_last = $3 "
                         "ORDER BY c_first", W, d, last)
    assert count == len(rows)
    return rows[(count + 1) // 2 - 1]["c_id"]


async def new_order(c, n):
    d, customer, lines = 1 + n % 2, 1 + n * 11 % 30, [(1 + n * 13 % 100, 3), (1 + (n * 17 + 5) % 100, 7)]
    w_tax = await c.fetchval("SELECT w_tax FROM warehouse WHERE w_id = $1", W)
    seen = await c.fetchrow("SELECT c_discount, c_last, c_credit FROM customer WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $3",
                            W, d, customer)
    d_tax, order = await c.fetchrow("SELECT d_tax, d_next_o_id FROM district WHERE d_w_id = $1 AND d_id = $2 FOR UPDATE", W, d)
    await c.execute("UPDATE district SET d_next_o_id = d_next_o_id + 1 WHERE d_w_id = $1 AND d_id = $2", W, d)
    await c.execute("INSERT INTO orders (o_id, o_d_id, o_w_id, o_c_id, o_entry_d, o_ol_cnt, o_all_local) "
                    "VALUES ($1, $2, $3, $4, $5, $6, 1)", order, d, W, customer, NOW, len(lines))
    await c.execute("INSERT INTO new_order (no_o_id, no_d_id, no_w_id) VALUES ($1, $2, $3)", order, d, W)
    total = 0
    for number, (item, quantity) in enumerate(lines, 1):
        price, name, data = await c.fetchrow("SELECT i_price, i_name, i_data FROM item WHERE i_id = $1", item)
        stock, info, _ = await c.fetchrow("SELECT s_quantity, s_dist_01, s_data FROM stock WHERE s_i_id = $1 AND s_w_id = $2 "
                                          "FOR UPDATE", item, W)
        left = stock - quantity if stock - quantity >= 10 else stock - quantity + 91
        await c.execute("UPDATE stock SET s_quantity = $1, s_ytd = s_ytd + $2, s_order_cnt = s_order_cnt + 1 "
                        "WHERE s_i_id = $3 AND s_w_id = $4", left, quantity, item, W)
        await c.execute("INSERT INTO order_line (ol_o_id, ol_d_id, ol_w_id, ol_number, ol_i_id, ol_supply_w_id, ol_quantity, "
                        "ol_amount, ol_dist_info) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
                        order, d, W, number, item, W, quantity, price * quantity, info)
        total += price * quantity
    return [w_tax, d_tax, seen, order, total * (1 - seen["c_discount"]) * (1 + w_tax + d_tax)]


async def payment(c, n):
    d, amount = 1 + n % 2, 10 + n
    customer = 1 + n * 7 % 30 if n % 5 < 2 else await by_last_name(c, d, SYLLABLES[n % 10] + "BARBAR")
    await c.execute("UPDATE warehouse SET w_ytd = w_ytd + $1 WHERE w_id = $2", amount, W)
    place = await c.fetchrow("SELECT w_street_1, w_street_2, w_city, w_state, w_zip, w_name FROM warehouse WHERE w_id = $1", W)
    await c.execute("UPDATE district SET d_ytd = d_ytd + $1 WHERE d_w_id = $2 AND d_id = $3", amount, W, d)
    part = await c.fetchrow("SELECT d_street_1, d_street_2, d_city, d_state, d_zip, d_name FROM district "
                            "WHERE d_w_id = $1 AND d_id = $2", W, d)
    seen = await c.fetchrow(
        "SELECT c_first, c_middle, c_last, c_street_1, c_street_2, c_city, c_state, c_zip, c_phone, c_credit, c_credit_lim, "
        "c_discount, c_balance, c_since FROM customer WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $3 FOR UPDATE", W, d, customer)
    if seen["c_credit"] == "BC":
        data = await c.fetchval("SELECT c_data FROM customer WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $3", W, d, customer)
        await c.execute("UPDATE customer SET c_balance = c_balance - $1, c_ytd_payment = c_ytd_payment + $1, "
                        "c_payment_cnt = c_payment_cnt + 1, c_data = $2 WHERE c_w_id = $3 AND c_d_id = $4 AND c_id = $5",
                        amount, f"{customer} {d} {W} {amount} {data}"[:500], W, d, customer)
    else:
        await c.execute("UPDATE customer SET c_balance = c_balance - $1, c_ytd_payment = c_ytd_payment + $1, "
                        "c_payment_cnt = c_payment_cnt + 1 WHERE c_w_id = $2 AND c_d_id = $3 AND c_id = $4", amount, W, d, customer)
    await c.execute("INSERT INTO history (h_c_d_id, h_c_w_id, h_c_id, h_d_id, h_w_id, h_date, h_amount, h_data) "
                    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", d, W, customer, d, W, NOW, amount, f"{place['w_name']}    {part['d_name']}")
    return [place, part, seen]


async def order_status(c, n):
    d = 1 + n % 2
    customer = 1 + n * 7 % 30 if n % 5 < 2 else await by_last_name(c, d, SYLLABLES[n % 10] + "BARBAR")
    seen = await c.fetchrow("SELECT c_balance, c_first, c_middle, c_last FROM customer WHERE c_w_id = $1 AND c_d_id = $2 AND c_id = $3",
                            W, d, customer)
    order = await c.fetchrow("SELECT o_id, o_carrier_id, o_entry_d FROM orders WHERE o_w_id = $1 AND o_d_id = $2 AND o_c_id = $3 "
                             "ORDER BY o_id DESC LIMIT 1", W, d, customer)
    lines = await c.fetch("SELECT ol_i_id, ol_supply_w_id, ol_quantity, ol_amount, ol_delivery_d FROM order_line "
                          "WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id = $3 ORDER BY ol_number", W, d, order["o_id"])
    return [seen, order, lines]


async def delivery(c, n):
    delivered = []
    for d in (1, 2):
        order = await c.fetchval("SELECT no_o_id FROM new_order WHERE no_d_id = $1 AND no_w_id = $2 ORDER BY no_o_id LIMIT 1 FOR UPDATE",
                                 d, W)
        await c.execute("DELETE FROM new_order WHERE no_o_id = $1 AND no_d_id = $2 AND no_w_id = $3", order, d, W)
        customer = await c.fetchval("SELECT o_c_id FROM orders WHERE o_id = $1 AND o_d_id = $2 AND o_w_id = $3", order, d, W)
        await c.execute("UPDATE orders SET o_carrier_id = $1 WHERE o_id = $2 AND o_d_id = $3 AND o_w_id = $4", 1 + n % 10, order, d, W)
        await c.execute("UPDATE order_line SET ol_delivery_d = $1 WHERE ol_o_id = $2 AND ol_d_id = $3 AND ol_w_id = $4",
                        NOW, order, d, W)
        amount = await c.fetchval("SELECT sum(ol_amount) FROM order_line WHERE ol_o_id = $1 AND ol_d_id = $2 AND ol_w_id = $3",
                                  order, d, W)
        await c.execute("UPDATE customer SET c_balance = c_balance + $1, c_delivery_cnt = c_delivery_cnt + 1 "
                        "WHERE c_id = $2 AND c_d_id = $3 AND c_w_id = $4", amount, customer, d, W)
        delivered.append([order, customer, amount])
    return delivered


async def stock_level(c, n):
    d = 1 + n % 2
    following = await c.fetchval("SELECT d_next_o_id FROM district WHERE d_w_id = $1 AND d_id = $2", W, d)
    return await c.fetchval(
        "SELECT count(DISTINCT s_i_id) FROM order_line, stock WHERE ol_w_id = $1 AND ol_d_id = $2 AND ol_o_id < $3 "
        "AND ol_o_id >= $3 - 20 AND s_w_id = $1 AND s_i_id = ol_i_id AND s_quantity < $4", W, d, following, 15 + n % 6)


async def main():
    connection = await asyncpg.connect()
    # In the proportions of clause 5.2.3, more or less.
    mix = [new_order] * 5 + [payment] * 5 + [order_status, delivery, stock_level]
    for n in range(5 * len(mix)):
        work = mix[n * 5 % len(mix)]
        try:
            async with connection.transaction():
                said(f"{n} {work.__name__}", await work(connection, n))
        except asyncpg.PostgresError as error:
            failed(f"{n} {work.__name__}", error)
    await connection.close()


asyncio.run(main())
