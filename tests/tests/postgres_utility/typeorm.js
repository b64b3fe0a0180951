// What a program does with TypeORM all day: create, read, update, delete, and report.

const { DataSource, EntitySchema, ILike, In, IsNull, LessThan, MoreThan, Not, Between } = require('typeorm');
const { take, at, user, ssl } = require('./steps.js');

const id = { type: Number, primary: true, generated: 'identity' };
const entity = (name, columns, relations) => new EntitySchema({ name, tableName: `${name}s`, columns: { id, ...columns }, relations });
const to = (target, column, inverseSide) => ({ type: 'many-to-one', target, joinColumn: { name: column }, inverseSide });
const many = (target, inverseSide) => ({ type: 'one-to-many', target, inverseSide });
const Customer = entity('customer', { name: { type: 'text' }, email: { type: 'text' }, phone: { type: 'text', nullable: true }, street: { type: 'text' },
  city: { type: 'text' }, since: { type: 'date' }, active: { type: 'boolean' } }, { orders: many('order', 'customer') });
const Product = entity('product', { sku: { type: 'text', unique: true }, name: { type: 'text' }, category: { type: 'text' },
  price: { type: 'numeric' }, stock: { type: 'integer' } }, { items: many('item', 'product') });
const Order = entity('order', { status: { type: 'text' }, placedAt: { type: 'timestamptz', name: 'placed_at' }, note: { type: 'text', nullable: true } },
  { customer: to('customer', 'customer_id', 'orders'), items: { ...many('item', 'order'), cascade: true } });
const Item = entity('item', { quantity: { type: 'integer' }, price: { type: 'numeric' } },
  { order: to('order', 'order_id', 'items'), product: to('product', 'product_id', 'items') });

const db = new DataSource({ type: 'postgres', ...at, username: user, ssl, entities: [Customer, Product, Order, Item] });
const [customers, products, orders, items] = [Customer, Product, Order, Item].map((it) => () => db.getRepository(it));
const NOON = new Date('2025-01-01T12:00:00Z');
const order = { id: 'ASC' };

db.initialize().then(() => take({
  'a page of customers': () => customers().find({ order: { name: 'ASC' }, take: 10, skip: 20 }),
  'a page, and how many': () => customers().findAndCount({ order, take: 5 }),
  'a customer': () => customers().findOneBy({ id: 7 }),
  'how many': () => customers().count(),
  'is there one': () => customers().existsBy({ city: 'Delta' }),
  'customers of a city': () => customers().find({ where: { city: 'Brook', active: true }, order }),
  'customers by name': () => customers().find({ where: { name: ILike('%1%') }, order }),
  'some columns': () => customers().find({ select: { id: true, name: true, email: true }, order }),
  'a few by key': () => customers().find({ where: { id: In([3, 5, 8]) }, order }),
  'orders with buyers': () => orders().find({ relations: { customer: true }, order, take: 20 }),
  'buyers with orders': () => customers().find({ relations: { orders: { items: true } }, order: { id: 'ASC', orders: { id: 'ASC', items: { id: 'ASC' } } } }),
  'a page of buyers with orders': () => customers().find({ relations: { orders: true }, order: { id: 'ASC', orders: order }, take: 5 }),
  'buyers with orders, apart': () => customers().find({ relations: { orders: true }, order: { id: 'ASC', orders: order }, relationLoadStrategy: 'query' }),
  'orders of a city': () => orders().find({ where: { customer: { city: 'Aare' } }, order }),
  'one or the other': () => orders().find({ where: [{ status: 'new' }, { status: 'paid', note: Not(IsNull()) }], order }),
  'between days': () => orders().find({ where: { placedAt: Between(new Date('2024-10-01'), NOON) }, order }),
  'an order is placed': async () => (await orders().save({ customer: { id: 5 }, status: 'new', placedAt: NOON, items: [{ product: { id: 1 }, quantity: 2, price: 6 }, { product: { id: 2 }, quantity: 1, price: 7 }] })).id,
  'an order is paid': async () => {
    const found = await orders().findOneBy({ id: 9 });
    Object.assign(found, { status: 'paid', note: 'by card' });
    return (await orders().save(found)).status;
  },
  'a customer moves': async () => {
    const found = await customers().findOneBy({ id: 12 });
    found.city = 'Creek';
    return (await customers().save(found)).city;
  },
  'a customer for update': () => db.transaction((m) => m.findOne(Customer, { where: { id: 4 }, lock: { mode: 'pessimistic_write' } })),
  'an order is taken back': async () => orders().remove(await orders().findOneBy({ id: 11 })),
  'rolled back': async () => {
    const runner = db.createQueryRunner();
    await runner.startTransaction('REPEATABLE READ');
    await runner.manager.save(Product, { sku: 'SKU-S', name: 'saw', category: 'office', price: 1, stock: 1 });
    await runner.rollbackTransaction();
    await runner.release();
    return products().count();
  },
  'products in bulk': () => products().insert([0, 1, 2].map((n) => ({ sku: `SKU-B${n}`, name: 'bulk', category: 'office', price: n, stock: n }))),
  'a product is there or made': () => products().upsert({ sku: 'SKU-1', name: 'kettle', category: 'kitchen', price: 9, stock: 3 }, ['sku']),
  'more in stock': () => products().increment({ id: 4 }, 'stock', 3),
  'dearer': () => products().createQueryBuilder().update().set({ price: () => 'price * 1.05' }).where({ category: 'office' }).execute(),
  'old orders are done': () => orders().update({ status: 'paid', placedAt: LessThan(NOON) }, { status: 'done' }),
  'empty lines go': () => items().delete({ quantity: MoreThan(3), order: { id: LessThan(20) } }),
  'a customer without orders goes': () => customers().delete({ id: 60 }),
  'the dearest and the cheapest': async () => [await products().maximum('price', {}), await products().minimum('price', {}), await products().sum('stock', {})],
  'revenue by month': () => orders().createQueryBuilder('o').innerJoin('o.items', 'i').select("date_trunc('month', o.placed_at)", 'month').addSelect('sum(i.quantity * i.price)', 'total').groupBy('month').orderBy('month').getRawMany(),
  'revenue by category': () => products().createQueryBuilder('p').innerJoin('p.items', 'i').select(['p.category AS category', 'sum(i.quantity * i.price) AS total']).groupBy('p.category').orderBy('total', 'DESC').getRawMany(),
  'the best customers, with their cards': () => customers().createQueryBuilder('c').innerJoin('c.orders', 'o').select(['c.id', 'c.name', 'c.email']).addSelect('count(*)', 'n').groupBy('c.id').orderBy('n', 'DESC').addOrderBy('c.id').limit(10).getRawMany(),
  'the same by all columns': () => customers().createQueryBuilder('c').innerJoin('c.orders', 'o').select(['c.id', 'c.name', 'c.email']).addSelect('count(*)', 'n').groupBy('c.id').addGroupBy('c.name').addGroupBy('c.email').orderBy('n', 'DESC').addOrderBy('c.id').limit(10).getRawMany(),
  'customers by city': () => customers().createQueryBuilder('c').select('c.city', 'city').addSelect('count(*)', 'n').groupBy('c.city').having('count(*) > :n', { n: 3 }).orderBy('c.city').getRawMany(),
  'customers without orders': () => customers().createQueryBuilder('c').leftJoin('c.orders', 'o').where('o.id IS NULL').orderBy('c.id').getMany(),
  'customers with large orders': () => customers().createQueryBuilder('c').where((q) => `c.id IN ${q.subQuery().select('o.customer_id').from('order', 'o').innerJoin('o.items', 'i').groupBy('o.id').having('sum(i.quantity * i.price) > 60').getQuery()}`).orderBy('c.id').getMany(),
  'customers, and how many orders': () => customers().createQueryBuilder('c').leftJoinAndSelect('c.orders', 'o').orderBy('c.id').addOrderBy('o.id').take(5).getManyAndCount(),
  'cities': () => customers().createQueryBuilder('c').select('DISTINCT c.city', 'city').orderBy('city').getRawMany(),
  'what is open': () => db.query('SELECT * FROM open_orders WHERE total > $1 ORDER BY id', [20]),
  'a table': async () => (await db.createQueryRunner().getTable('customers')).columns.map((it) => [it.name, it.type, it.isNullable]),
  'the schema as it would be made': async () => (await db.driver.createSchemaBuilder().log()).upQueries.length >= 0,
  // Writes what is masked.
  'a customer is entered': async () => (await customers().save({ name: 'New', email: 'new@shop.example', street: '9 Weir Lane', city: 'Aare', since: '2025-01-01', active: true })).id,
})).then(() => db.destroy());
