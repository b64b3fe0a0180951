# What a program does with Django's mapper all day: create, read, update, delete, and report.
import datetime
import io
import os
from decimal import Decimal

import django
from django.apps import AppConfig
from django.conf import settings
from steps import failed, said


class Shop(AppConfig):
    name, label, path = "__main__", "shop", os.path.dirname(os.path.abspath(__file__))


settings.configure(
    INSTALLED_APPS=["__main__.Shop"],
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
                           "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"], "PASSWORD": os.environ.get("PGPASSWORD", "")}},
    USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.AutoField")
django.setup()

from django.core.management import call_command
from django.db import connection, models, transaction
from django.db.models import Avg, Case, Count, Exists, F, Max, Min, OuterRef, Prefetch, Q, Subquery, Sum, Value, When, Window
from django.db.models.functions import Coalesce, Concat, ExtractYear, Lower, Rank, RowNumber, TruncMonth, Upper


class Customer(models.Model):
    name, email, phone = models.TextField(), models.TextField(), models.TextField(null=True)
    street, city, since, active = models.TextField(), models.TextField(), models.DateField(), models.BooleanField()

    class Meta:
        app_label, managed, db_table, ordering = "shop", False, "customers", ["id"]


class Product(models.Model):
    sku, name, category = models.TextField(unique=True), models.TextField(), models.TextField()
    price, stock = models.DecimalField(max_digits=10, decimal_places=2), models.IntegerField()

    class Meta:
        app_label, managed, db_table, ordering = "shop", False, "products", ["id"]


class Order(models.Model):
    customer = models.ForeignKey(Customer, models.CASCADE, related_name="orders")
    status, placed_at, note = models.TextField(), models.DateTimeField(), models.TextField(null=True)

    class Meta:
        app_label, managed, db_table, ordering = "shop", False, "orders", ["id"]


class Item(models.Model):
    order = models.ForeignKey(Order, models.CASCADE, related_name="items")
    product = models.ForeignKey(Product, models.PROTECT, related_name="items")
    quantity, price = models.IntegerField(), models.DecimalField(max_digits=10, decimal_places=2)

    class Meta:
        app_label, managed, db_table, ordering = "shop", False, "items", ["id"]


NOON = datetime.datetime(2025, 1, 1, 12, tzinfo=datetime.timezone.utc)
TOTAL = Sum(F("items__quantity") * F("items__price"))


def card(c):
    return [c.id, c.name, c.email, c.phone, c.street, c.city, c.since, c.active]


def order():
    made = Order.objects.create(customer_id=5, status="new", placed_at=NOON)
    made.items.create(product_id=1, quantity=2, price=6)
    made.items.create(product_id=2, quantity=1, price=7)
    return [made.id, made.items.count()]


def pay():
    found = Order.objects.select_for_update().get(id=9)
    found.status, found.note = "paid", "by card"
    found.save()
    return found.status


def move():
    found = Customer.objects.get(id=12)
    found.city, found.active = "Creek", False
    found.save(update_fields=["city", "active"])
    return card(found)


def savepoint():
    try:
        with transaction.atomic():
            Product.objects.create(sku="SKU-S", name="saw", category="office", price=1, stock=1)
            raise ValueError
    except ValueError:
        return Product.objects.count()


def raw(text, *values):
    with connection.cursor() as cursor:
        cursor.execute(text, values)
        return cursor.fetchall()


def inspected():
    out = io.StringIO()
    call_command("inspectdb", include_views=True, stdout=out)
    return out.getvalue()


STEPS = {
    "a page of customers": lambda: [card(c) for c in Customer.objects.order_by("name")[20:30]],
    "the next page by key": lambda: [card(c) for c in Customer.objects.filter(id__gt=20)[:10]],
    "a customer": lambda: card(Customer.objects.get(pk=7)),
    "how many": lambda: Customer.objects.count(),
    "is there one": lambda: Customer.objects.filter(city="Delta").exists(),
    "customers of a city": lambda: [card(c) for c in Customer.objects.filter(city="Brook", active=True)],
    "customers by name": lambda: [card(c) for c in Customer.objects.filter(name__icontains="1")],
    "customers by the beginning of a name": lambda: [c.id for c in Customer.objects.filter(name__istartswith="customer 3")],
    "some columns": lambda: list(Customer.objects.values_list("id", "name")),
    "cards alone": lambda: list(Customer.objects.values_list("email", "phone", "street")),
    "all but the street": lambda: [[c.id, c.email] for c in Customer.objects.defer("street")],
    "a customer's orders": lambda: [[o.id, o.status] for o in Customer.objects.get(id=8).orders.all()],
    "orders with buyers": lambda: [[o.id, o.customer.email] for o in Order.objects.select_related("customer")[:20]],
    "buyers with orders": lambda: [[c.email, len(c.orders.all())] for c in Customer.objects.prefetch_related("orders__items")],
    "buyers with open orders": lambda: [[c.email, len(c.open)] for c in Customer.objects.prefetch_related(
        Prefetch("orders", Order.objects.exclude(status="done"), to_attr="open"))],
    "items of a city": lambda: [[i.id, i.order.customer.name, i.product.sku] for i in
                                Item.objects.select_related("order__customer", "product").filter(order__customer__city="Aare")],
    "a few by key": lambda: [card(c) for c in Customer.objects.filter(id__in=[3, 5, 8])],
    "by keys": lambda: sorted(Customer.objects.in_bulk([1, 2])),
    "one or the other": lambda: [o.id for o in Order.objects.filter(Q(status="new") | Q(status="paid", note__isnull=False))],
    "between days": lambda: [o.id for o in Order.objects.filter(placed_at__range=(NOON - datetime.timedelta(days=90), NOON))],
    "of a month": lambda: [o.id for o in Order.objects.filter(placed_at__year=2024, placed_at__month=3)],
    "first and last": lambda: [card(Customer.objects.first()), card(Customer.objects.last())],
    "the latest": lambda: Order.objects.latest("placed_at").id,
    "a customer for update": lambda: card(Customer.objects.select_for_update().get(id=4)),
    "by a cursor": lambda: [o.id for o in Order.objects.iterator(chunk_size=50)],
    "customers by a cursor": lambda: [card(c) for c in Customer.objects.iterator(chunk_size=20)],
    "an order is placed": order,
    "an order is paid": pay,
    "a customer moves": move,
    "an order is taken back": lambda: Order.objects.get(id=11).delete(),
    "a savepoint": savepoint,
    "products in bulk": lambda: [p.id for p in Product.objects.bulk_create(
        [Product(sku=f"SKU-B{n}", name="bulk", category="office", price=n, stock=n) for n in range(5)])],
    "a product is there or made": lambda: [p.stock for p in Product.objects.bulk_create(
        [Product(sku="SKU-1", name="kettle", category="kitchen", price=9, stock=3)], update_conflicts=True,
        unique_fields=["sku"], update_fields=["stock"])],
    "got or made": lambda: [made for _, made in [Product.objects.get_or_create(sku=f"SKU-{n}", defaults=dict(
        name="lamp", category="office", price=9, stock=3)) for n in (2, 2000)]],
    "changed or made": lambda: Product.objects.update_or_create(sku="SKU-3", defaults=dict(stock=8))[1],
    "changed in bulk": lambda: Product.objects.bulk_update([Product(id=4, stock=1), Product(id=5, stock=2)], ["stock"]),
    "dearer": lambda: Product.objects.filter(category="office").update(price=F("price") * Decimal("1.05")),
    "old orders are done": lambda: Order.objects.filter(status="paid", placed_at__lt=NOON).update(status="done"),
    "customers without orders rest": lambda: Customer.objects.filter(orders__isnull=True).update(active=False),
    "empty lines go": lambda: Item.objects.filter(quantity__gt=3, order_id__lt=20).delete(),
    "a customer without orders goes": lambda: Customer.objects.filter(id=60).delete(),
    "revenue by month": lambda: list(Order.objects.annotate(m=TruncMonth("placed_at")).values("m").annotate(t=TOTAL, n=Count("id", distinct=True)).order_by("m").values_list()),
    "revenue by category": lambda: list(Product.objects.values("category").annotate(t=TOTAL, a=Avg("items__price")).order_by("-t").values_list("category", "t", "a")),
    "the best of each category": lambda: list(Product.objects.annotate(t=TOTAL).annotate(
        place=Window(Rank(), partition_by="category", order_by=F("t").desc())).filter(place__lte=3).order_by("category", "place", "name").values_list("category", "name", "t", "place")),
    "the best customers, with their cards": lambda: [[*card(c), c.t] for c in Customer.objects.annotate(
        t=Sum(F("orders__items__quantity") * F("orders__items__price"))).filter(t__isnull=False).order_by("-t", "id")[:10]],
    "the same by values": lambda: list(Customer.objects.values("id", "name", "email").annotate(t=Count("orders")).order_by("-t", "id")[:10].values_list()),
    "customers by city": lambda: list(Customer.objects.values("city").annotate(n=Count("id"), s=Min("since")).filter(n__gt=3).order_by("city").values_list()),
    "average basket": lambda: Order.objects.annotate(t=TOTAL).aggregate(a=Avg("t"), m=Max("t"), n=Count("t")).items(),
    "large orders and their buyers": lambda: [[o.t, o.customer.name, o.customer.email, o.customer.phone] for o in
                                              Order.objects.select_related("customer").annotate(t=TOTAL).filter(t__gt=60).order_by("-t", "id")],
    "customers without orders": lambda: [card(c) for c in Customer.objects.filter(~Exists(Order.objects.filter(customer=OuterRef("pk"))))],
    "customers and their latest order": lambda: list(Customer.objects.annotate(at=Subquery(
        Order.objects.filter(customer=OuterRef("pk")).order_by("-placed_at").values("placed_at")[:1])).values_list("id", "email", "at")),
    "the latest order of each customer": lambda: [[o.customer_id, o.id] for o in Order.objects.order_by("customer_id", "-placed_at").distinct("customer_id")],
    "orders by state": lambda: list(Order.objects.values("status").annotate(n=Count("note"), of=Count("id", filter=Q(note__isnull=True))).order_by("status").values_list()),
    "size of orders": lambda: list(Order.objects.annotate(t=TOTAL).annotate(size=Case(
        When(t__gt=80, then=Value("large")), When(t__gt=40, then=Value("middle")), default=Value("small"))).values_list("id", "size")),
    "numbered": lambda: list(Order.objects.annotate(n=Window(RowNumber(), partition_by="customer_id", order_by="placed_at")).values_list("id", "n")),
    "stock to order": lambda: list(Product.objects.annotate(sold=Coalesce(Sum("items__quantity"), 0)).filter(stock__lt=5).values_list("sku", "stock", "sold")),
    "names and labels": lambda: list(Customer.objects.annotate(label=Concat("name", Value(" <"), "email", Value(">"), output_field=models.TextField()), up=Upper("city"), down=Lower("email")).values_list("label", "up", "down")[:5]),
    "products and customers alike": lambda: list(Product.objects.values_list("name").union(Customer.objects.values_list("name"), all=True).order_by("name")),
    "years of customers": lambda: list(Customer.objects.annotate(y=ExtractYear("since")).values("y").annotate(n=Count("id")).order_by("y").values_list()),
    "cities": lambda: list(Customer.objects.order_by("city").values_list("city", flat=True).distinct()),
    "days with orders": lambda: list(Order.objects.datetimes("placed_at", "month")),
    "what is open": lambda: raw("SELECT * FROM open_orders ORDER BY id"),
    "by hand": lambda: raw("SELECT c.name, c.email, count(*) FROM customers c JOIN orders o ON o.customer_id = c.id WHERE o.status = %s GROUP BY c.id ORDER BY c.id", "done"),
    "the schema": inspected,
    # Writes what is masked.
    "a customer is entered": lambda: Customer.objects.create(name="New", email="new@shop.example", phone="555-0199",
                                                             street="9 Weir Lane", city="Aare", since=NOON.date(), active=True).id,
}

for name, one in STEPS.items():
    try:
        with transaction.atomic():
            said(name, one())
    except Exception as error:
        failed(name, error)
