# What a program does with SQLAlchemy's mapper all day: create, read, update, delete, and report.
import datetime
import sys
from decimal import Decimal

from sqlalchemy import (Boolean, Date, DateTime, ForeignKey, Integer, MetaData, Numeric, Text, and_, case, create_engine, distinct,
                        exists, extract, func, inspect, literal, or_, select, text, update, delete, union_all)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import (DeclarativeBase, Mapped, Session, aliased, contains_eager, defer, joinedload, load_only, mapped_column,
                            relationship, selectinload, subqueryload)
from steps import failed, said, url


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text)
    phone: Mapped[str | None] = mapped_column(Text)
    street: Mapped[str] = mapped_column(Text)
    city: Mapped[str] = mapped_column(Text)
    since: Mapped[datetime.date] = mapped_column(Date)
    active: Mapped[bool] = mapped_column(Boolean)
    orders: Mapped[list["Order"]] = relationship(back_populates="customer", order_by="Order.id")


class Product(Base):
    __tablename__ = "products"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sku: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    category: Mapped[str] = mapped_column(Text)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    stock: Mapped[int] = mapped_column(Integer)


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))
    status: Mapped[str] = mapped_column(Text)
    placed_at: Mapped[datetime.datetime] = mapped_column(DateTime(timezone=True))
    note: Mapped[str | None] = mapped_column(Text)
    customer: Mapped[Customer] = relationship(back_populates="orders")
    items: Mapped[list["Item"]] = relationship(back_populates="order", order_by="Item.id", cascade="all, delete-orphan")


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"))
    quantity: Mapped[int] = mapped_column(Integer)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    order: Mapped[Order] = relationship(back_populates="items")
    product: Mapped[Product] = relationship()


NOON = datetime.datetime(2025, 1, 1, 12, tzinfo=datetime.timezone.utc)
TOTAL = func.sum(Item.quantity * Item.price)


def card(c):
    return [c.id, c.name, c.email, c.phone, c.street, c.city, c.since, c.active]


def rows(s, statement):
    return s.execute(statement).all()


def reports():
    month = func.date_trunc("month", Order.placed_at)
    ranked = (select(Product.category, Product.name, TOTAL.label("revenue"),
                     func.rank().over(partition_by=Product.category, order_by=TOTAL.desc()).label("place"))
              .join(Item).group_by(Product.id).subquery())
    totals = select(Order.id.label("id"), Order.customer_id, TOTAL.label("total")).join(Item).group_by(Order.id).cte("totals")
    buyer = aliased(Customer)
    latest = select(Order.placed_at).where(Order.customer_id == Customer.id).order_by(Order.placed_at.desc()).limit(1)
    yield "revenue by month", select(month, TOTAL, func.count(distinct(Order.id))).join(Item).group_by(month).order_by(month)
    yield "revenue by category", select(Product.category, TOTAL, func.avg(Item.price)).join(Item).group_by(Product.category).order_by(TOTAL.desc())
    yield "the best of each category", select(ranked).where(ranked.c.place <= 3).order_by(ranked.c.category, ranked.c.place, ranked.c.name)
    yield "the best customers, with their cards", (
        select(Customer.id, Customer.name, Customer.email, TOTAL.label("spent")).join(Order, Order.customer_id == Customer.id).join(Item)
        .group_by(Customer.id, Customer.name, Customer.email).order_by(TOTAL.desc(), Customer.id).limit(10))
    yield "customers by city", select(Customer.city, func.count(), func.min(Customer.since)).group_by(Customer.city).order_by(Customer.city)
    yield "customers with phones, by city", select(Customer.city, func.count(Customer.id), func.max(Customer.since)).group_by(Customer.city).having(func.count() > 3).order_by(Customer.city)
    yield "average basket", select(func.avg(totals.c.total), func.max(totals.c.total), func.count()).select_from(totals)
    yield "large orders and their buyers", (
        select(totals.c.total, buyer.name, buyer.email, buyer.phone).join(buyer, buyer.id == totals.c.customer_id)
        .where(totals.c.total > 60).order_by(totals.c.total.desc(), totals.c.id))
    yield "customers without orders", select(Customer.id, Customer.name, Customer.email).where(~exists().where(Order.customer_id == Customer.id)).order_by(Customer.id)
    yield "customers and their latest order", select(Customer.id, Customer.email, latest.scalar_subquery()).order_by(Customer.id)
    yield "orders by state", select(Order.status, func.count().filter(Order.note.is_not(None)), func.count()).group_by(Order.status).order_by(Order.status)
    yield "size of orders", select(case((totals.c.total > 80, "large"), (totals.c.total > 40, "middle"), else_="small").label("size"), func.count()).group_by("size").order_by("size")
    yield "running revenue", (
        select(month.label("m"), func.sum(TOTAL).over(order_by=month)).join(Item).group_by(month).order_by("m"))
    yield "by weekday", select(extract("isodow", Order.placed_at).label("d"), func.count()).group_by("d").order_by("d")
    yield "stock to order", select(Product.sku, Product.stock, func.coalesce(func.sum(Item.quantity), 0)).outerjoin(Item).group_by(Product.id).having(Product.stock < 5).order_by(Product.sku)
    yield "names and labels", select(func.concat(Customer.name, " <", Customer.email, ">"), func.upper(Customer.city)).order_by(Customer.id).limit(5)
    yield "products and customers alike", union_all(select(literal("p"), Product.name), select(literal("c"), Customer.name)).order_by(text("1, 2"))
    yield "what is open", text("SELECT * FROM open_orders ORDER BY id")
    yield "years of customers", select(func.extract("year", Customer.since).label("y"), func.string_agg(Customer.name, literal(", "))).group_by("y").order_by("y")
    yield "cities", select(distinct(Customer.city)).order_by(Customer.city)


def work(s):
    yield "a page of customers", lambda: [card(c) for c in s.scalars(select(Customer).order_by(Customer.name).limit(10).offset(20))]
    yield "the next page by key", lambda: [card(c) for c in s.scalars(select(Customer).where(Customer.id > 20).order_by(Customer.id).limit(10))]
    yield "a customer", lambda: card(s.get(Customer, 7))
    yield "how many", lambda: s.scalar(select(func.count()).select_from(Customer))
    yield "is there one", lambda: s.scalar(select(exists().where(Customer.city == "Delta")))
    yield "customers of a city", lambda: [card(c) for c in s.scalars(select(Customer).filter_by(city="Brook", active=True).order_by(Customer.id))]
    yield "customers by name", lambda: [card(c) for c in s.scalars(select(Customer).where(Customer.name.ilike("%1%")).order_by(Customer.id))]
    yield "some columns", lambda: [[c.id, c.name] for c in s.scalars(select(Customer).options(load_only(Customer.name)).order_by(Customer.id))]
    yield "all but the street", lambda: [[c.id, c.email] for c in s.scalars(select(Customer).options(defer(Customer.street)).order_by(Customer.id))]
    yield "a customer's orders", lambda: [[o.id, o.status] for o in s.get(Customer, 8).orders]
    yield "orders with buyers", lambda: [[o.id, o.customer.email] for o in s.scalars(select(Order).options(joinedload(Order.customer)).order_by(Order.id).limit(20))]
    yield "buyers with orders", lambda: [[c.email, len(c.orders)] for c in s.scalars(select(Customer).options(selectinload(Customer.orders).selectinload(Order.items)).order_by(Customer.id))]
    yield "buyers with orders by a subquery", lambda: [[c.email, len(c.orders)] for c in s.scalars(select(Customer).options(subqueryload(Customer.orders)).order_by(Customer.id).limit(5))]
    yield "orders, buyers, items", lambda: [[o.id, o.customer.name, [i.product.sku for i in o.items]] for o in s.scalars(
        select(Order).join(Order.customer).options(contains_eager(Order.customer), joinedload(Order.items).joinedload(Item.product)).where(Customer.city == "Aare").order_by(Order.id)).unique()]
    yield "a few by key", lambda: [card(c) for c in s.scalars(select(Customer).where(Customer.id.in_([3, 5, 8])).order_by(Customer.id))]
    yield "one or the other", lambda: [o.id for o in s.scalars(select(Order).where(or_(Order.status == "new", and_(Order.status == "paid", Order.note.is_not(None)))).order_by(Order.id))]
    yield "between days", lambda: [o.id for o in s.scalars(select(Order).where(Order.placed_at.between(NOON - datetime.timedelta(days=90), NOON)).order_by(Order.id))]
    yield "an order for update", lambda: s.scalar(select(Order).where(Order.id == 4).with_for_update()).status
    yield "a customer for update", lambda: card(s.scalar(select(Customer).where(Customer.id == 4).with_for_update()))

    def order():
        made = Order(customer_id=5, status="new", placed_at=NOON, items=[Item(product_id=1, quantity=2, price=6), Item(product_id=2, quantity=1, price=7)])
        s.add(made)
        s.flush()
        return [made.id, [i.id for i in made.items]]

    def pay():
        found = s.get(Order, 9)
        found.status, found.note = "paid", "by card"
        s.flush()
        return [found.status]

    def move():
        found = s.get(Customer, 12)
        found.city, found.active = "Creek", False
        s.flush()
        return card(found)

    def remove():
        s.delete(s.get(Order, 11))
        s.flush()

    def savepoint():
        with s.begin_nested() as inner:
            s.add(Product(sku="SKU-S", name="saw", category="office", price=1, stock=1))
            s.flush()
            inner.rollback()
        return s.scalar(select(func.count()).select_from(Product))

    yield "an order is placed", order
    yield "an order is paid", pay
    yield "a customer moves", move
    yield "an order is taken back", remove
    yield "a savepoint", savepoint
    yield "products in bulk", lambda: s.scalars(upsert(Product).returning(Product.id), [dict(sku=f"SKU-B{n}", name="bulk", category="office", price=n, stock=n) for n in range(5)]).all()
    yield "a product is there or made", lambda: s.execute(upsert(Product).values(sku="SKU-1", name="kettle", category="kitchen", price=9, stock=3).on_conflict_do_update(index_elements=["sku"], set_=dict(stock=Product.stock + 3)).returning(Product.stock)).all()
    yield "a product is there or not", lambda: s.execute(upsert(Product).values(sku="SKU-2", name="lamp", category="office", price=9, stock=3).on_conflict_do_nothing()).rowcount
    yield "dearer", lambda: s.execute(update(Product).where(Product.category == "office").values(price=Product.price * Decimal("1.05"))).rowcount
    yield "old orders are done", lambda: s.execute(update(Order).where(Order.status == "paid", Order.placed_at < NOON).values(status="done").returning(Order.id)).all()
    yield "customers without orders rest", lambda: s.execute(update(Customer).where(~exists().where(Order.customer_id == Customer.id)).values(active=False)).rowcount
    yield "empty lines go", lambda: s.execute(delete(Item).where(Item.quantity > 3, Item.order_id < 20)).rowcount
    yield "a customer without orders goes", lambda: s.execute(delete(Customer).where(Customer.id == 60)).rowcount
    for name, statement in reports():
        yield name, lambda statement=statement: rows(s, statement)

    def join():
        made = Customer(name="New", email="new@shop.example", phone="555-0199", street="9 Weir Lane", city="Aare", since=NOON.date(), active=True)
        s.add(made)
        s.flush()
        return [made.id]

    # Writes what is masked.
    yield "a customer is entered", join


engine = create_engine(url(f"postgresql+{sys.argv[1]}"))
with Session(engine, autoflush=False) as session:
    for name, one in work(session):
        try:
            said(name, one())
            session.commit()
        except Exception as error:
            session.rollback()
            failed(name, error)
for name, look in {
    "tables": lambda i: sorted(i.get_table_names()),
    "columns": lambda i: [[c["name"], c["type"], c["nullable"]] for t in sorted(i.get_table_names()) for c in i.get_columns(t)],
    "keys": lambda i: [[t, i.get_pk_constraint(t), i.get_foreign_keys(t), i.get_indexes(t), i.get_check_constraints(t)] for t in sorted(i.get_table_names())],
    "views": lambda i: [[v, i.get_view_definition(v)] for v in i.get_view_names()],
    "all at once": lambda i: (lambda m: (m.reflect(engine, views=True), sorted(m.tables))[1])(MetaData()),
}.items():
    try:
        said(name, look(inspect(engine)))
    except Exception as error:
        failed(name, error)
