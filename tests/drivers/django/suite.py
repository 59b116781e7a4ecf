"""Django's ORM over psycopg 3, as an application uses it: migrations, models, transactions, iterators."""

import threading
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from urllib.parse import urlsplit

import django
from django.conf import settings

from checks import URL, restart_servers, run

PARTS = urlsplit(URL)
settings.configure(
    INSTALLED_APPS=["django.contrib.postgres", "django.contrib.contenttypes", "django.contrib.auth", "library"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": PARTS.path[1:],
            "USER": PARTS.username,
            "PASSWORD": PARTS.password,
            "HOST": PARTS.hostname,
            "PORT": PARTS.port,
            "CONN_MAX_AGE": 60,
        }
    },
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import DataError, IntegrityError, ProgrammingError, connection, connections, models, transaction  # noqa: E402
from library.models import Author, Book, Item  # noqa: E402


VALUES = {
    "amount": Decimal("123456789012345678.000100"),
    "ratio": 0.1,
    "label": "Zoë, 名前, 🐘, it's \\ \"quoted\" %s",
    "raw": bytes(range(256)),
    "flag": True,
    "day": date(1999, 12, 31),
    "at": datetime(2024, 2, 29, 12, 0, 0, 654321, tzinfo=timezone.utc),
    "span": timedelta(days=3, hours=4, microseconds=5),
    "token": uuid.UUID("0b5f0d46-6ad4-4f4e-8d5a-0a6a1f2f3a4b"),
    "attrs": {"nested": {"deep": True}},
    "tags": ["a", "b,c", ""],
    "addr": "10.1.2.3",
}


def migrations_run():
    call_command("migrate", verbosity=0)
    call_command("migrate", verbosity=0)
    assert User.objects.count() == 0
    with connection.schema_editor() as editor:
        editor.create_model(Author)
        editor.create_model(Item)
    with connection.cursor() as cursor:
        # Uniqueness of a sharded table needs its key, so that this one is written by hand.
        cursor.execute(
            "CREATE TABLE books (book_id uuid, author_id bigint REFERENCES authors, title varchar(100), PRIMARY KEY (author_id, book_id))"
        )
    assert {"authors", "books", "items", "auth_user"} <= set(connection.introspection.table_names())


def users_and_groups_of_the_framework():
    user = User.objects.create_user("ann", password="secret")
    group = Group.objects.create(name="editors")
    user.groups.add(group)
    assert User.objects.filter(groups__name="editors").get().check_password("secret")
    assert Group.objects.get_or_create(name="editors")[1] is False


def types_go_both_ways():
    Item.objects.create(id=1, **VALUES)
    Item.objects.create(id=2)
    found = Item.objects.values(*VALUES).get(id=1)
    assert {**found, "raw": bytes(found["raw"])} == VALUES, found
    assert set(Item.objects.values(*VALUES).get(id=2).values()) == {None}
    assert Item.objects.filter(id=1, attrs__nested__deep=True, tags__contains=["a"]).count() == 1


def many_rows_are_inserted():
    Item.objects.bulk_create([Item(id=number, label=f"label {number}") for number in range(100, 700)])
    assert Item.objects.filter(id__gte=100).count() == 600
    assert list(Item.objects.filter(id__gte=100).order_by("id").values_list("id", flat=True)[5:12]) == list(range(105, 112))
    assert Item.objects.filter(id=100).update(n=5) == 1
    assert Item.objects.update_or_create(id=100, defaults={"n": 6})[1] is False
    assert Item.objects.aggregate(models.Sum("id"), models.Max("n")) == {"id__sum": sum(range(100, 700)) + 3, "n__max": 6}


def objects_are_kept():
    for number in range(1, 9):
        author = Author.objects.create(author_id=number, name=f"Author {number}")
        for n in range(3):
            author.books.create(title=f"Book {n} of {number}")
    author = Author.objects.get(pk=3)
    assert list(author.books.order_by("title").values_list("title", flat=True)) == [f"Book {n} of 3" for n in range(3)]
    assert Book.objects.filter(author__author_id=4, author__name="Author 4").select_related("author")[0].author.name == "Author 4"
    assert [author.pk for author in Author.objects.order_by("pk")] == list(range(1, 9))
    assert Author.objects.filter(pk=5).annotate(n=models.Count("books")).get().n == 3
    assert [len(author.books.all()) for author in Author.objects.filter(pk=2).prefetch_related("books")] == [3]


def rows_come_in_steps():
    # By cursors at the server: WITH HOLD outside of a transaction.
    Item.objects.bulk_create([Item(id=number, n=number % 7) for number in range(5000, 5130)])
    stored = Item.objects.filter(pk__gte=5000)
    for _ in range(2):
        ids = [item.pk for item in stored.order_by("pk").iterator(chunk_size=50)]
        assert ids == list(range(5000, 5130))
    with transaction.atomic():
        ids = [item.pk for item in stored.order_by("-pk").iterator(chunk_size=50)]
        assert ids == list(range(5129, 4999, -1))
        groups = stored.values("n").annotate(found=models.Count("pk")).order_by("n")
        assert [group["found"] for group in groups.iterator(chunk_size=2)] == [18, 18, 19, 19, 19, 19, 18]
    for number in range(5000, 5130):
        Item.objects.filter(pk=number).delete()


def transactions_and_savepoints():
    with transaction.atomic():
        Author.objects.filter(pk=1).update(name="outer")
        try:
            with transaction.atomic():
                Author.objects.filter(pk=1).update(name="inner")
                Author.objects.create(pk=1, name="there is one")
            raise AssertionError("a second row of one key")
        except IntegrityError as error:
            assert error.__cause__.sqlstate == "23505"
        assert Author.objects.select_for_update().get(pk=1).name == "outer"
    done = []
    with transaction.atomic():
        transaction.on_commit(lambda: done.append(1))
        Author.objects.filter(pk=2).update(name="two")
    assert done and Author.objects.get(pk=1).name == "outer"


def errors_have_their_sqlstate():
    for sql, kind, sqlstate in [
        ("SELECT 1/0", DataError, "22012"),
        ("SELECT * FROM nothing_here", ProgrammingError, "42P01"),
        ("INSERT INTO items (id) VALUES (1)", IntegrityError, "23505"),
    ]:
        with connection.cursor() as cursor:
            try:
                cursor.execute(sql)
                raise AssertionError(f"{sql} succeeded")
            except kind as error:
                assert error.__cause__.sqlstate == sqlstate
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)


def clients_at_once():
    failures = []

    def work(number):
        try:
            for step in range(20):
                with transaction.atomic():
                    Item.objects.filter(pk=number).update(n=step)
                    assert Item.objects.get(pk=number).n == step
        except Exception as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=[number]) for number in range(100, 108)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def servers_restart():
    assert Item.objects.get(pk=1).label == VALUES["label"]
    restart_servers()
    try:
        Item.objects.get(pk=1)
    except django.db.Error:
        pass
    assert Item.objects.get(pk=1).label == VALUES["label"]
    assert Item.objects.filter(id__gte=100).count() == 600


run(
    migrations_run,
    users_and_groups_of_the_framework,
    types_go_both_ways,
    many_rows_are_inserted,
    objects_are_kept,
    rows_come_in_steps,
    transactions_and_savepoints,
    errors_have_their_sqlstate,
    clients_at_once,
    servers_restart,
)
