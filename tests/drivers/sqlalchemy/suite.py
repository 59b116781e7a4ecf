"""SQLAlchemy over psycopg 3, and over asyncpg, as an application uses them: its own pool, Core, the ORM, reflection."""

import asyncio
import enum
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, INET, JSONB, insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from checks import URL, restart_servers, run

SYNC_URL = URL.replace("postgres://", "postgresql+psycopg://")
ASYNC_URL = URL.replace("postgres://", "postgresql+asyncpg://")


class Base(DeclarativeBase):
    pass


class Mood(enum.Enum):
    sad = "sad"
    happy = "happy"


class Author(Base):
    """Sharded by its key."""

    __tablename__ = "authors"
    author_id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True, autoincrement=False)
    name: Mapped[str]
    mood: Mapped[Mood | None] = mapped_column(sa.Enum(Mood, name="mood"))
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    """On the shard of its author."""

    __tablename__ = "books"
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("authors.author_id"), primary_key=True)
    book_id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    title: Mapped[str]
    price: Mapped[Decimal | None]
    author: Mapped[Author] = relationship(back_populates="books")


class Note(Base):
    """On the first shard, with a key that the server makes."""

    __tablename__ = "notes"
    note_id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    text: Mapped[str]
    made: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())


items = sa.Table(
    "items",
    Base.metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("amount", sa.Numeric),
    sa.Column("label", sa.Text),
    sa.Column("raw", BYTEA),
    sa.Column("flag", sa.Boolean),
    sa.Column("day", sa.Date),
    sa.Column("seen", sa.DateTime),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("span", sa.Interval),
    sa.Column("token", sa.Uuid),
    sa.Column("doc", sa.JSON),
    sa.Column("attrs", JSONB),
    sa.Column("tags", ARRAY(sa.Text)),
    sa.Column("addr", INET),
    sa.Column("n", sa.Integer),
)

VALUES = {
    "amount": Decimal("12345678901234567890.000100"),
    "label": "Zoë, 名前, 🐘, it's \\ \"quoted\" :not_a_mark %s",
    "raw": bytes(range(256)),
    "flag": True,
    "day": date(1999, 12, 31),
    "seen": datetime(2024, 2, 29, 12, 0, 0, 654321),
    "at": datetime(2024, 2, 29, 12, 0, 0, 654321, tzinfo=timezone.utc),
    "span": timedelta(days=3, hours=4, microseconds=5),
    "token": uuid.UUID("0b5f0d46-6ad4-4f4e-8d5a-0a6a1f2f3a4b"),
    "doc": {"a": [1, None, "ü"]},
    "attrs": {"nested": {"deep": True}},
    "tags": ["a", "b,c", ""],
}

engine = sa.create_engine(SYNC_URL)


def schema_is_made():
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    # A second time finds all tables in the catalog.
    Base.metadata.create_all(engine)


def tables_are_reflected():
    found = sa.MetaData()
    found.reflect(engine, only=["authors", "books", "notes", "items"])
    assert [column.name for column in found.tables["books"].primary_key] == ["author_id", "book_id"]
    assert [key.target_fullname for key in found.tables["books"].foreign_keys] == ["authors.author_id"]
    assert isinstance(found.tables["items"].c.tags.type, ARRAY)
    assert found.tables["authors"].c.mood.type.enums == ["sad", "happy"]
    assert sa.inspect(engine).has_table("items") and not sa.inspect(engine).has_table("nothing_here")


def types_go_both_ways():
    with engine.begin() as conn:
        conn.execute(sa.insert(items), {"id": 1, **VALUES})
        conn.execute(sa.insert(items), {"id": 2})
    with engine.connect() as conn:
        row = conn.execute(sa.select(*[items.c[name] for name in VALUES]).where(items.c.id == 1)).mappings().one()
        assert dict(row) == VALUES, row
        assert set(conn.execute(sa.select(*[items.c[name] for name in VALUES]).where(items.c.id == 2)).one()) == {None}


def many_rows_are_inserted():
    with engine.begin() as conn:
        conn.execute(sa.insert(items), [{"id": number, "label": f"label {number}"} for number in range(100, 1300)])
    with engine.connect() as conn:
        assert conn.scalar(sa.select(sa.func.count()).where(items.c.id >= 100)) == 1200
        ids = conn.scalars(sa.select(items.c.id).where(items.c.id >= 100).order_by(items.c.id).limit(7).offset(5)).all()
        assert ids == list(range(105, 112))
        upsert = insert(items).values(id=100, label="again")
        upsert = upsert.on_conflict_do_update(index_elements=[items.c.id], set_={"label": upsert.excluded.label})
        assert conn.execute(upsert.returning(items.c.label)).scalar_one() == "again"
        conn.rollback()


def rows_are_streamed():
    """By a cursor of the server's, in portions of a hundred."""
    with engine.connect() as conn:
        wanted = sa.select(items.c.id, items.c.label).where(items.c.id >= 100).order_by(items.c.id)
        streamed = conn.execution_options(yield_per=100).execute(wanted)
        assert [row.id for row in streamed] == list(range(100, 1300))
        portions = list(conn.execution_options(stream_results=True, max_row_buffer=64).execute(wanted).partitions(250))
        assert [len(portion) for portion in portions] == [250, 250, 250, 250, 200], [len(portion) for portion in portions]
        # Left early: the cursor is closed, and the connection goes on.
        early = conn.execution_options(yield_per=10).execute(sa.select(items.c.id).where(items.c.id >= 100))
        assert len(early.fetchmany(3)) == 3
        early.close()
        assert conn.scalar(sa.select(sa.func.count()).select_from(items)) == 1202
    with Session(engine) as session:
        session.add_all([Author(author_id=number, name=f"streamed {number}") for number in range(500, 560)])
        session.commit()
        found = session.scalars(sa.select(Author).where(Author.author_id >= 500).order_by(Author.author_id).execution_options(yield_per=25))
        assert [author.name for author in found] == [f"streamed {number}" for number in range(500, 560)]
        for author in session.scalars(sa.select(Author).where(Author.author_id >= 500)).all():
            session.delete(author)
        session.commit()


def objects_are_kept():
    with Session(engine) as session, session.begin():
        for number in range(1, 9):
            books = [Book(title=f"Book {n} of {number}", price=Decimal("9.90")) for n in range(3)]
            session.add(Author(author_id=number, name=f"Author {number}", mood=Mood.happy, books=books))
        notes = [Note(text="first"), Note(text="second")]
        session.add_all(notes)
        session.flush()
        assert len({note.note_id for note in notes}) == 2 and notes[0].made.tzinfo
    with Session(engine) as session:
        author = session.get(Author, 3)
        assert author.mood is Mood.happy and sorted(book.title for book in author.books)[0] == "Book 0 of 3"
        author.books[0].title = "renamed"
        author.name = "renamed"
        session.commit()
        assert session.scalar(sa.select(Book.title).where(Book.author_id == 3, Book.title == "renamed")) == "renamed"
        joined = sa.select(Author.name, sa.func.count()).join(Author.books).where(Author.author_id == 5).group_by(Author.name)
        assert session.execute(joined).one() == ("Author 5", 3)
        everyone = session.scalars(sa.select(Author).order_by(Author.author_id)).all()
        assert [author.author_id for author in everyone] == list(range(1, 9))
        eager = session.scalars(sa.select(Author).where(Author.author_id == 4).options(selectinload(Author.books))).one()
        assert len(eager.books) == 3
        session.delete(session.get(Author, 8))
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Book)) == 21


def transactions_and_savepoints():
    with Session(engine) as session:
        session.add(Author(author_id=20, name="outer"))
        try:
            with session.begin_nested():
                session.add(Author(author_id=1, name="there is one"))
                session.flush()
            raise AssertionError("a second row of one key")
        except exc.IntegrityError as error:
            assert error.orig.sqlstate == "23505"
        session.commit()
        assert session.get(Author, 20).name == "outer"
    with engine.connect() as conn:
        conn.execute(sa.update(items).where(items.c.id == 1).values(n=77))
        conn.rollback()
        assert conn.scalar(sa.select(items.c.n).where(items.c.id == 1)) is None
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as conn:
        assert conn.scalar(sa.text("SHOW transaction_isolation")) == "serializable"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(sa.update(items).where(items.c.id == 1).values(n=78))
    with engine.connect() as conn:
        assert conn.scalar(sa.text("SHOW transaction_isolation")) == "read committed"
        assert conn.scalar(sa.select(items.c.n).where(items.c.id == 1)) == 78


def errors_have_their_sqlstate():
    with engine.connect() as conn:
        for sql, kind, sqlstate in [
            ("SELECT 1/0", exc.DataError, "22012"),
            ("SELECT * FROM nothing_here", exc.ProgrammingError, "42P01"),
            ("INSERT INTO items (id) VALUES (1)", exc.IntegrityError, "23505"),
        ]:
            try:
                conn.execute(sa.text(sql))
                raise AssertionError(f"{sql} succeeded")
            except kind as error:
                assert error.orig.sqlstate == sqlstate
            conn.rollback()
            assert conn.scalar(sa.text("SELECT 1")) == 1


def over_asyncpg():
    async def live():
        engine = create_async_engine(ASYNC_URL)
        sessions = async_sessionmaker(engine)

        async def work(number):
            for step in range(10):
                async with sessions() as session, session.begin():
                    book = (await session.scalars(sa.select(Book).where(Book.author_id == number).order_by(Book.title))).first()
                    book.title = f"{number}/{step}"
            async with engine.connect() as conn:
                titles = sa.select(sa.func.count()).where(Book.author_id == number, Book.title == f"{number}/9")
                assert await conn.scalar(titles) == 1

        async with engine.begin() as conn:
            await conn.execute(sa.insert(items), {"id": 3, **VALUES})
            row = (await conn.execute(sa.select(*[items.c[name] for name in VALUES]).where(items.c.id == 3))).mappings().one()
            assert dict(row) == VALUES, row
            wanted = sa.select(items.c.id).where(items.c.id >= 100).order_by(items.c.id)
            streamed = await conn.stream(wanted.execution_options(yield_per=100))
            assert [row.id async for row in streamed] == list(range(100, 1300))
        await asyncio.gather(*[work(number) for number in range(1, 8)])
        await engine.dispose()

    asyncio.run(live())


def servers_restart():
    with engine.connect() as conn:
        assert conn.scalar(sa.select(items.c.label).where(items.c.id == 1)) == VALUES["label"]
    restart_servers()
    try:
        with engine.connect() as conn:
            conn.scalar(sa.select(items.c.label).where(items.c.id == 1))
    except exc.DBAPIError:
        pass
    with engine.connect() as conn:
        assert conn.scalar(sa.select(items.c.label).where(items.c.id == 1)) == VALUES["label"]
        assert conn.scalar(sa.select(sa.func.count()).where(items.c.id >= 100)) == 1200


run(
    schema_is_made,
    tables_are_reflected,
    types_go_both_ways,
    many_rows_are_inserted,
    rows_are_streamed,
    objects_are_kept,
    transactions_and_savepoints,
    errors_have_their_sqlstate,
    over_asyncpg,
    servers_restart,
)
