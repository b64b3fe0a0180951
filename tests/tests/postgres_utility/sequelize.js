// What a program does with Sequelize all day: create, read, update, delete, and report.

const { Sequelize, DataTypes, Op, QueryTypes, col, fn, literal, where } = require('sequelize');
const { take, at, user, ssl } = require('./steps.js');

const db = new Sequelize({ dialect: 'postgres', ...at, username: user, logging: false, dialectOptions: { ssl },
  define: { timestamps: false, underscored: true } });
const { TEXT, INTEGER, DECIMAL, BOOLEAN, DATE, DATEONLY } = DataTypes;
// Sequelize writes into what it is given.
const text = () => ({ type: TEXT, allowNull: false });
const Customer = db.define('customer', { name: text(), email: text(), phone: TEXT, street: text(), city: text(), since: DATEONLY, active: BOOLEAN }, { tableName: 'customers' });
const Product = db.define('product', { sku: { ...text(), unique: true }, name: text(), category: text(), price: DECIMAL(10, 2), stock: INTEGER }, { tableName: 'products' });
const Order = db.define('order', { status: text(), placedAt: DATE, note: TEXT }, { tableName: 'orders' });
const Item = db.define('item', { quantity: INTEGER, price: DECIMAL(10, 2) }, { tableName: 'items' });
Customer.hasMany(Order, { as: 'orders' });
Order.belongsTo(Customer, { as: 'customer' });
Order.hasMany(Item, { as: 'items', onDelete: 'cascade' });
Item.belongsTo(Order, { as: 'order' });
Item.belongsTo(Product, { as: 'product' });
Product.hasMany(Item, { as: 'items' });
const NOON = new Date('2025-01-01T12:00:00Z');
const byId = [['id', 'ASC']];
const total = fn('sum', literal('"items"."quantity" * "items"."price"'));

take({
  'a page of customers': () => Customer.findAll({ order: ['name'], limit: 10, offset: 20 }),
  'a page, and how many': () => Customer.findAndCountAll({ order: byId, limit: 5 }),
  'a customer': () => Customer.findByPk(7),
  'how many': () => Customer.count(),
  'customers of a city': () => Customer.findAll({ where: { city: 'Brook', active: true }, order: byId }),
  'customers by name': () => Customer.findAll({ where: { name: { [Op.iLike]: '%1%' } }, order: byId }),
  'some columns': () => Customer.findAll({ attributes: ['id', 'name', 'email'], order: byId, raw: true }),
  'a few by key': () => Customer.findAll({ where: { id: [3, 5, 8] }, order: byId }),
  'orders with buyers': () => Order.findAll({ include: 'customer', order: byId, limit: 20 }),
  'buyers with orders': () => Customer.findAll({ include: [{ association: 'orders', include: ['items'] }], order: ['id', [col('orders.id'), 'ASC'], [col('orders.items.id'), 'ASC']] }),
  'a page of buyers with orders': () => Customer.findAll({ include: ['orders'], order: ['id', [{ model: Order, as: 'orders' }, 'id', 'ASC']], limit: 5 }),
  'buyers with orders, apart': () => Customer.findAll({ include: [{ association: 'orders', separate: true, order: byId }], order: byId, limit: 5 }),
  'buyers of a state': () => Customer.findAll({ include: [{ association: 'orders', where: { status: 'new' }, required: true }], order: ['id', [col('orders.id'), 'ASC']] }),
  'one or the other': () => Order.findAll({ where: { [Op.or]: [{ status: 'new' }, { status: 'paid', note: { [Op.ne]: null } }] }, order: byId, raw: true }),
  'between days': () => Order.findAll({ where: { placedAt: { [Op.between]: [new Date('2024-10-01'), NOON] } }, order: byId, raw: true }),
  'by a function': () => Customer.findAll({ where: where(fn('lower', col('city')), 'delta'), order: byId }),
  'an order is placed': () => db.transaction(async (t) => {
    const made = await Order.create({ customerId: 5, status: 'new', placedAt: NOON }, { transaction: t });
    await Item.bulkCreate([{ orderId: made.id, productId: 1, quantity: 2, price: 6 }, { orderId: made.id, productId: 2, quantity: 1, price: 7 }], { transaction: t });
    return made.id;
  }),
  'an order and its items at once': () => Order.create({ customerId: 6, status: 'new', placedAt: NOON, items: [{ productId: 3, quantity: 1, price: 3 }] }, { include: ['items'] }),
  'an order is paid': async () => (await (await Order.findByPk(9)).update({ status: 'paid', note: 'by card' })).status,
  'a customer moves': async () => {
    const found = await Customer.findByPk(12);
    found.city = 'Creek';
    await found.save();
    return found.city;
  },
  'a customer for update': () => db.transaction(async (t) => Customer.findByPk(4, { transaction: t, lock: t.LOCK.UPDATE })),
  'an order is taken back': async () => (await Order.findByPk(11)).destroy().then(() => 1),
  'rolled back': async () => {
    const t = await db.transaction({ isolationLevel: Sequelize.Transaction.ISOLATION_LEVELS.REPEATABLE_READ });
    await Product.create({ sku: 'SKU-S', name: 'saw', category: 'office', price: 1, stock: 1 }, { transaction: t });
    await t.rollback();
    return Product.count();
  },
  'products in bulk': () => Product.bulkCreate([0, 1, 2].map((n) => ({ sku: `SKU-B${n}`, name: 'bulk', category: 'office', price: n, stock: n }))),
  'a product is there or made': () => Product.upsert({ sku: 'SKU-1', name: 'kettle', category: 'kitchen', price: 9, stock: 3 }, { conflictFields: ['sku'] }),
  'more in stock': () => Product.increment({ stock: 3 }, { where: { id: 4 } }).then(() => 1),
  'dearer': () => Product.update({ price: literal('price * 1.05') }, { where: { category: 'office' } }),
  'old orders are done': () => Order.update({ status: 'done' }, { where: { status: 'paid', placedAt: { [Op.lt]: NOON } } }),
  'empty lines go': () => Item.destroy({ where: { quantity: { [Op.gt]: 3 }, orderId: { [Op.lt]: 20 } } }),
  'a customer without orders goes': () => Customer.destroy({ where: { id: 60 } }),
  'the dearest and the cheapest': async () => [await Product.max('price'), await Product.min('price'), await Product.sum('stock')],
  'revenue by month': () => Order.findAll({ attributes: [[fn('date_trunc', 'month', col('placed_at')), 'month'], [total, 'total']], include: [{ association: 'items', attributes: [] }], group: ['month'], order: [literal('month')], raw: true }),
  'revenue by category': () => Product.findAll({ attributes: ['category', [total, 'total']], include: [{ association: 'items', attributes: [] }], group: ['category'], order: [[literal('total'), 'DESC']], raw: true }),
  'the best customers, with their cards': () => Customer.findAll({ attributes: ['id', 'name', 'email', [fn('count', col('orders.id')), 'n']], include: [{ association: 'orders', attributes: [], duplicating: false }], group: ['customer.id'], order: [[literal('n'), 'DESC'], 'id'], limit: 10, raw: true }),
  'customers by city': () => Customer.findAll({ attributes: ['city', [fn('count', col('id')), 'n']], group: ['city'], having: where(fn('count', col('id')), Op.gt, 3), order: ['city'], raw: true }),
  'how many of each': () => Order.count({ group: ['status'] }),
  'customers without orders': () => Customer.findAll({ where: { '$orders.id$': null }, include: [{ association: 'orders', attributes: [] }], order: byId, raw: true }),
  'customers and their latest order': () => Customer.findAll({ attributes: { include: [[literal('(SELECT max(o.placed_at) FROM orders o WHERE o.customer_id = "customer"."id")'), 'latest']] }, order: byId, raw: true }),
  'cities': () => Customer.aggregate('city', 'DISTINCT', { plain: false }),
  'names and labels': () => Customer.findAll({ attributes: [[fn('concat', col('name'), ' <', col('email'), '>'), 'label'], [fn('upper', col('city')), 'up']], order: byId, limit: 5, raw: true }),
  'what is open': () => db.query('SELECT * FROM open_orders WHERE total > :least ORDER BY id', { replacements: { least: 20 }, type: QueryTypes.SELECT }),
  'by hand': () => db.query('SELECT c.name, c.email, sum(i.quantity * i.price) FROM customers c JOIN orders o ON o.customer_id = c.id JOIN items i ON i.order_id = o.id WHERE o.status = $1 GROUP BY c.id ORDER BY c.id', { bind: ['done'], type: QueryTypes.SELECT }),
  'the tables': async () => (await db.getQueryInterface().showAllTables()).sort(),
  'a table': () => db.getQueryInterface().describeTable('customers'),
  'its indexes': () => db.getQueryInterface().showIndex('customers'),
  'its keys': () => db.getQueryInterface().getForeignKeyReferencesForTable('orders'),
  // Makes a function for it.
  'found or made': async () => (await Product.findOrCreate({ where: { sku: 'SKU-2000' }, defaults: { name: 'lamp', category: 'office', price: 9, stock: 3 } }))[1],
  // Writes what is masked.
  'a customer is entered': async () => (await Customer.create({ name: 'New', email: 'new@shop.example', street: '9 Weir Lane', city: 'Aare', since: '2025-01-01', active: true })).id,
}).then(() => db.close());
