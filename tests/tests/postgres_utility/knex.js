// What a program does with Knex all day: create, read, update, delete, and report.

const { take, at, user, ssl } = require('./steps.js');
const db = require('knex')({ client: 'pg', connection: { ...at, user, ssl } });

const NOON = new Date('2025-01-01T12:00:00Z');
const total = 'sum(i.quantity * i.price)';

take({
  'a page of customers': () => db('customers').orderBy('name').limit(10).offset(20),
  'a customer': () => db('customers').where({ id: 7 }).first(),
  'how many': () => db('customers').count('* as n'),
  'customers of a city': () => db('customers').where({ city: 'Brook', active: true }).orderBy('id'),
  'customers by name': () => db('customers').whereILike('name', '%1%').orderBy('id'),
  'some columns': () => db('customers').select('id', 'name', 'email').orderBy('id'),
  'one column': () => db('customers').orderBy('id').pluck('email'),
  'a few by key': () => db('customers').whereIn('id', [3, 5, 8]).orderBy('id'),
  'orders with buyers': () => db('orders as o').join('customers as c', 'c.id', 'o.customer_id').select('o.id', 'o.status', 'c.name', 'c.email').orderBy('o.id').limit(20),
  'one or the other': () => db('orders').where('status', 'new').orWhere((q) => q.where('status', 'paid').whereNotNull('note')).orderBy('id'),
  'between days': () => db('orders').whereBetween('placed_at', [new Date('2024-10-01'), NOON]).orderBy('id'),
  'an order is placed': () => db.transaction(async (t) => {
    const [made] = await t('orders').insert({ customer_id: 5, status: 'new', placed_at: NOON }).returning('id');
    await t('items').insert([{ order_id: made.id, product_id: 1, quantity: 2, price: 6 }, { order_id: made.id, product_id: 2, quantity: 1, price: 7 }]);
    return made;
  }),
  'an order is paid': () => db('orders').where({ id: 9 }).update({ status: 'paid', note: 'by card' }, ['id', 'status']),
  'a customer moves': () => db('customers').where({ id: 12 }).update({ city: 'Creek' }).returning('*'),
  'a customer for update': () => db.transaction((t) => t('customers').where({ id: 4 }).forUpdate().first()),
  'an order is taken back': () => db('orders').where({ id: 11 }).del(),
  'rolled back': async () => {
    const t = await db.transaction();
    await t('products').insert({ sku: 'SKU-S', name: 'saw', category: 'office', price: 1, stock: 1 });
    await t.rollback();
    return db('products').count();
  },
  'within a transaction': () => db.transaction((t) => t.transaction((s) => s('products').where({ id: 3 }).update({ stock: 4 }))),
  'a product is there or made': () => db('products').insert({ sku: 'SKU-1', name: 'kettle', category: 'kitchen', price: 9, stock: 3 }).onConflict('sku').merge(['stock']).returning('stock'),
  'a product is there or not': () => db('products').insert({ sku: 'SKU-2', name: 'lamp', category: 'office', price: 9, stock: 3 }).onConflict('sku').ignore(),
  'in batches': () => db.batchInsert('products', [0, 1, 2, 3].map((n) => ({ sku: `SKU-B${n}`, name: 'bulk', category: 'office', price: n, stock: n })), 2).returning('id'),
  'more in stock': () => db('products').where({ id: 4 }).increment('stock', 3),
  'dearer': () => db('products').where({ category: 'office' }).update({ price: db.raw('price * ?', [1.05]) }),
  'empty lines go': () => db('items').where('quantity', '>', 3).where('order_id', '<', 20).del(),
  'a customer without orders goes': () => db('customers').where({ id: 60 }).del(),
  'revenue by month': () => db('orders as o').join('items as i', 'i.order_id', 'o.id').select(db.raw("date_trunc('month', o.placed_at) as month"), db.raw(`${total} as total`)).groupBy('month').orderBy('month'),
  'revenue by category': () => db('products as p').join('items as i', 'i.product_id', 'p.id').select('p.category').select(db.raw(`${total} as total`)).groupBy('p.category').orderBy('total', 'desc'),
  'the best customers, with their cards': () => db('customers as c').join('orders as o', 'o.customer_id', 'c.id').select('c.id', 'c.name', 'c.email', 'c.phone').count('* as n').groupBy('c.id', 'c.name', 'c.email', 'c.phone').orderBy([{ column: 'n', order: 'desc' }, 'c.id']).limit(10),
  'customers by city': () => db('customers').select('city').count('* as n').min('since as s').groupBy('city').having(db.raw('count(*) > 3')).orderBy('city'),
  'customers without orders': () => db('customers as c').whereNotExists(db('orders as o').select(1).whereRaw('o.customer_id = c.id')).orderBy('c.id'),
  'the same by keys': () => db('customers').whereNotIn('id', db('orders').distinct('customer_id')).orderBy('id'),
  'large orders and their buyers': () => db.with('totals', (q) => q.select('o.id', 'o.customer_id', db.raw(`${total} as total`)).from('orders as o').join('items as i', 'i.order_id', 'o.id').groupBy('o.id')).select('t.total', 'c.name', 'c.email').from('totals as t').join('customers as c', 'c.id', 't.customer_id').where('t.total', '>', 60).orderBy([{ column: 't.total', order: 'desc' }, 't.id']),
  'ranked': () => db('products').select('category', 'name').rank('place', (q) => q.partitionBy('category').orderBy('price', 'desc')).orderBy(['category', 'place', 'name']),
  'cities': () => db('customers').distinct('city').orderBy('city'),
  'alike': () => db('products').select('name').unionAll(db('customers').select('name')).orderBy('name'),
  'names and labels': () => db('customers').select(db.raw("name || ' <' || email || '>' as label")).orderBy('id').limit(5),
  'what is open': () => db('open_orders').where('total', '>', 20).orderBy('id'),
  'is there a table': () => db.schema.hasTable('customers'),
  'its columns': () => db('customers').columnInfo(),
  // Writes what is masked.
  'a customer is entered': () => db('customers').insert({ name: 'New', email: 'new@shop.example', street: '9 Weir Lane', city: 'Aare', since: '2025-01-01' }).returning('id'),
}).then(() => db.destroy());
