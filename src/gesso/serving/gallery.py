"""The library of finished pictures: lists and searches, stars, boards, pictures that are deleted and brought back.

    gallery = Gallery(store.database)
    page = gallery.list(Filter(owner="local", query="red car"), limit=100)
    gallery.edit([page.pictures[0].id], owner="local", starred=True)

A picture has its place from when it is finished. Deleting one hides it at once; its bytes go some days
later, until when it can be brought back. Pictures with a star or on a board stay when the time of their jobs is over.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, Connection, Row, cast, delete, exists, func, insert, literal_column, select, update

from gesso.errors import GessoError, short
from gesso.serving.database import Database
from gesso.serving.jobs import Output
from gesso.serving.picture_rows import SETTINGS, mark_changed
from gesso.serving.rows import Ids, cursor_number, cursor_text, output_of
from gesso.serving.tables import board_pictures, boards, outputs, pictures

MAX_PAGE = 1000
MAX_EDIT = 1000  # pictures of one change
MAX_BOARDS = 1000  # of one owner
MAX_NAME = 100  # characters of a board's
MAX_QUERY = 500  # characters
MAX_TERMS = 16
MAX_SKIP = 10_000_000
DAY = 86_400  # seconds


@dataclass(frozen=True, kw_only=True)
class GalleryPicture:
    """A finished picture as the library has it.

    number      its place: larger is newer
    prompt      as it was drawn, without flags and wildcards; its first 4000 characters
    deleted_at  since when it is hidden
    boards      ids
    """

    number: int
    output: Output
    job: str
    owner: str
    batch: str | None
    model: str
    prompt: str
    negative_prompt: str
    created_at: float
    starred: bool
    deleted_at: float | None
    boards: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.output.id


@dataclass(frozen=True, kw_only=True)
class GalleryPage:
    """Some pictures of a list, newest first.

    total   how many the whole list has, from the cursor on
    cursor  for the next page; None on the last
    top     a cursor before the first of the list: with `skip`, any part of it, which newer pictures do not move
    """

    pictures: tuple[GalleryPicture, ...]
    total: int
    cursor: str | None
    top: str


@dataclass(frozen=True, kw_only=True)
class Board:
    """A named collection of pictures.  count: of those that are not deleted; cover: id of the newest"""

    id: str
    owner: str
    name: str
    created_at: float
    count: int = 0
    cover: str | None = None


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which pictures of a library a list has.

    owner    whose; None: everybody's
    query    words that all occur in prompts or settings; "seed:7", "steps:20", "sampler:euler" are settings
    deleted  those that can be brought back, in place of the others
    """

    owner: str | None = None
    query: str = ""
    starred: bool = False
    deleted: bool = False
    board: str | None = None
    model: str | None = None
    job: str | None = None
    batch: str | None = None
    conditions: tuple[Any, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.query) > MAX_QUERY or len(terms := self.query.casefold().split()) > MAX_TERMS:
            message = f"`q` is too long: expected at most {MAX_TERMS} words and {MAX_QUERY} characters"
            raise GessoError(message, code="invalid_value", field="q")
        held: list[Any] = [pictures.c.deleted_at.is_not(None) if self.deleted else pictures.c.deleted_at.is_(None)]
        if self.owner is not None:
            held.append(pictures.c.owner == self.owner)
        if self.starred:
            held.append(literal_column("pictures.starred"))  # as the index with this condition has it
        if self.board is not None:
            on_it = exists().where(board_pictures.c.board == self.board, board_pictures.c.picture == pictures.c.number)
            held.append(on_it)
        for column, value in (
            (pictures.c.model, self.model),
            (pictures.c.job, self.job),
            (pictures.c.batch, self.batch),
        ):
            if value is not None:
                held.append(column == value)
        held += [pictures.c.words.contains(_term(term), autoescape=True) for term in terms]
        object.__setattr__(self, "conditions", tuple(held))


def _term(term: str) -> str:
    """A setting is a whole word, or seed:7 would find seed:77; a word may be the beginning of one, or stand within."""
    name, colon, value = term.partition(":")
    return f" {term} " if colon and value and name in SETTINGS else term


class Gallery:
    """The library of one queue's database.  clock: seconds since the epoch"""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database, self._clock, self._ids = database, clock, Ids(clock)

    # ---- pictures ----------------------------------------------------------------------------------------------------

    def list(self, wanted: Filter, *, limit: int = 100, skip: int = 0, cursor: str | None = None) -> GalleryPage:
        """Pictures, newest first.

        skip    leaves out so many, from the cursor on
        cursor  of the page before, or `GalleryPage.top`
        Raises GessoError (code invalid_value) for numbers out of range and a cursor that is none.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise GessoError(f"`limit` {limit}: expected 1 to {MAX_PAGE}", code="invalid_value", field="limit")
        if not 0 <= skip <= MAX_SKIP:
            raise GessoError(f"`skip` {skip}: expected 0 to {MAX_SKIP}", code="invalid_value", field="skip")
        below = None if cursor is None else cursor_number("pictures", cursor)

        def work(connection: Connection) -> GalleryPage:
            conditions = list(wanted.conditions)
            if below is not None:
                conditions.append(pictures.c.number < below)
            total = connection.execute(select(func.count()).select_from(pictures).where(*conditions)).scalar_one()
            # The rows of the page are found before anything is joined: what is skipped costs a step in an index each.
            part = select(pictures.c.number).where(*conditions).order_by(pictures.c.number.desc())
            numbers = list(connection.scalars(part.limit(limit + 1).offset(skip)))
            more = len(numbers) > limit
            numbers = numbers[:limit]
            top = below
            if top is None:  # of this list alone: the newest picture of all would tell what others draw
                newest = select(func.max(pictures.c.number)).where(*conditions)
                top = (numbers[0] if numbers and not skip else connection.execute(newest).scalar_one() or 0) + 1
            return GalleryPage(
                pictures=_found(connection, numbers),
                total=total,
                cursor=cursor_text("pictures", numbers[-1]) if more else None,
                top=cursor_text("pictures", top),
            )

        return self.database.read(work)

    def days(self, wanted: Filter, *, east: int = 0) -> tuple[tuple[int, int], ...]:
        """On which days the pictures of a list were finished, newest first. -> (day, number of pictures)

        A day is counted from 1 January 1970. east: seconds by which the clock that decides it is ahead of UTC; within
        half a second of midnight databases differ. Looks at each picture of the list.
        """

        def work(connection: Connection) -> tuple[tuple[int, int], ...]:
            day = cast(pictures.c.created_at + east, BigInteger) // DAY
            statement = (
                select(day, func.count())
                .select_from(pictures)
                .where(*wanted.conditions)
                .group_by(day)
                .order_by(func.max(pictures.c.number).desc())
            )
            return tuple((int(row[0]), int(row[1])) for row in connection.execute(statement))

        return self.database.read(work)

    def get(self, id: str, owner: str | None = None) -> GalleryPicture:
        """A picture by its id, a deleted one too. Raises GessoError (code output_missing)."""

        def work(connection: Connection) -> tuple[GalleryPicture, ...]:
            return _found(connection, _numbers(connection, [id], owner))

        found = self.database.read(work)
        if not found:
            raise GessoError(f"no picture {short(id)}", code="output_missing", data={"id": id[:64]})
        return found[0]

    def named(self, ids: Sequence[str], owner: str | None = None) -> tuple[GalleryPicture, ...]:
        """Those of these pictures that are there and not deleted, in the order in which they are named."""

        def work(connection: Connection) -> tuple[GalleryPicture, ...]:
            return _found(connection, _numbers(connection, ids, owner))

        found = {picture.id: picture for picture in self.database.read(work) if picture.deleted_at is None}
        return tuple(found[id] for id in dict.fromkeys(ids) if id in found)

    def edit(
        self,
        ids: Sequence[str],
        owner: str | None = None,
        *,
        starred: bool | None = None,
        deleted: bool | None = None,
        add_to: str | None = None,
        remove_from: str | None = None,
    ) -> tuple[GalleryPicture, ...]:
        """Change pictures, all in one step. -> as they are then; those that are not there are left out

        deleted  True hides them, False brings them back
        add_to, remove_from  ids of boards
        Raises GessoError (code board_missing) for a board that is not there, or another owner's.
        """

        def work(connection: Connection) -> tuple[GalleryPicture, ...]:
            for board in (add_to, remove_from):
                if board is not None:
                    _board_row(connection, board, owner)
            numbers = _numbers(connection, ids, owner)
            these = pictures.c.number.in_(numbers)
            if starred is not None:
                connection.execute(update(pictures).where(these).values(starred=starred))
            if deleted is True:
                now = self._clock()
                connection.execute(
                    update(pictures).where(these, pictures.c.deleted_at.is_(None)).values(deleted_at=now)
                )
            elif deleted is False:
                connection.execute(update(pictures).where(these).values(deleted_at=None))
            if remove_from is not None:
                on_it = (board_pictures.c.board == remove_from, board_pictures.c.picture.in_(numbers))
                connection.execute(delete(board_pictures).where(*on_it))
            if add_to is not None:
                there = select(board_pictures.c.picture).where(
                    board_pictures.c.board == add_to, board_pictures.c.picture.in_(numbers)
                )
                new = set(numbers) - set(connection.scalars(there))
                if new:
                    values = [{"board": add_to, "picture": number} for number in sorted(new)]
                    connection.execute(insert(board_pictures), values)
            found = _found(connection, numbers)
            for one in {picture.owner for picture in found}:
                mark_changed(connection, one)
            return found

        return self.database.write(work)

    # ---- boards ------------------------------------------------------------------------------------------------------

    def boards(self, owner: str | None = None) -> tuple[Board, ...]:
        """All boards of an owner, oldest first."""

        def work(connection: Connection) -> tuple[Board, ...]:
            statement = select(boards).order_by(boards.c.id)
            if owner is not None:
                statement = statement.where(boards.c.owner == owner)
            return _boards(connection, connection.execute(statement).all())

        return self.database.read(work)

    def board(self, id: str, owner: str | None = None) -> Board:
        """One board. Raises GessoError (code board_missing)."""
        return self.database.read(lambda connection: _boards(connection, [_board_row(connection, id, owner)]))[0]

    def add_board(self, owner: str, name: str) -> Board:
        """A new board, without pictures. Raises GessoError: invalid_value, too_large where there are too many."""
        name = _board_name(name)
        id, now = self._ids.new(), self._clock()

        def work(connection: Connection) -> None:
            if connection.execute(select(boards.c.id).where(boards.c.id == id)).one_or_none() is not None:
                return  # written before, when the answer to the commit was lost
            count = select(func.count()).select_from(boards).where(boards.c.owner == owner)
            if connection.execute(count).scalar_one() >= MAX_BOARDS:
                raise GessoError(f"there are {MAX_BOARDS} boards. Delete one first", code="too_large", field="name")
            connection.execute(insert(boards).values(id=id, owner=owner, name=name, created_at=now))
            mark_changed(connection, owner)

        self.database.write(work)
        return Board(id=id, owner=owner, name=name, created_at=now)

    def rename_board(self, id: str, name: str, owner: str | None = None) -> Board:
        """Give a board another name. Raises GessoError: board_missing, invalid_value."""
        name = _board_name(name)

        def work(connection: Connection) -> Board:
            row = _board_row(connection, id, owner)
            connection.execute(update(boards).where(boards.c.id == id).values(name=name))
            mark_changed(connection, row.owner)
            return _boards(connection, [_board_row(connection, id, owner)])[0]

        return self.database.write(work)

    def delete_board(self, id: str, owner: str | None = None) -> None:
        """Forget a board; its pictures stay. Raises GessoError (code board_missing)."""

        def work(connection: Connection) -> None:
            row = _board_row(connection, id, owner)
            connection.execute(delete(boards).where(boards.c.id == id))
            mark_changed(connection, row.owner)

        self.database.write(work)


# ---- rows ------------------------------------------------------------------------------------------------------------


def _numbers(connection: Connection, ids: Sequence[str], owner: str | None) -> list[int]:
    """The numbers of those of these pictures that are there and the owner's."""
    found: list[int] = []
    for start in range(0, len(ids), 500):
        statement = select(pictures.c.number).where(pictures.c.output.in_(ids[start : start + 500]))
        if owner is not None:
            statement = statement.where(pictures.c.owner == owner)
        found += connection.scalars(statement)
    return found


_SHOWN = (
    *(outputs.c.id, outputs.c.index, outputs.c.content_type, outputs.c.nbytes, outputs.c.width, outputs.c.height),
    *(outputs.c.digest, outputs.c.seed, outputs.c.notices),
)


def _found(connection: Connection, numbers: Sequence[int]) -> tuple[GalleryPicture, ...]:
    """The pictures of these numbers, newest first; without their recipes."""
    held: dict[int, list[str]] = {}
    rows: list[Any] = []
    shown = [column for column in pictures.c if column.name != "words"]
    for start in range(0, len(numbers), 500):
        part = numbers[start : start + 500]
        on = select(board_pictures).where(board_pictures.c.picture.in_(part)).order_by(board_pictures.c.board)
        for row in connection.execute(on):
            held.setdefault(row.picture, []).append(row.board)
        statement = select(*shown, *_SHOWN).join(outputs, outputs.c.id == pictures.c.output)
        rows.extend(connection.execute(statement.where(pictures.c.number.in_(part))).all())
    rows.sort(key=lambda row: -row.number)
    return tuple(
        GalleryPicture(
            number=row.number,
            output=output_of(row, with_recipe=False),
            job=row.job,
            owner=row.owner,
            batch=row.batch,
            model=row.model,
            prompt=row.prompt,
            negative_prompt=row.negative_prompt,
            created_at=row.created_at,
            starred=row.starred,
            deleted_at=row.deleted_at,
            boards=tuple(held.get(row.number, ())),
        )
        for row in rows
    )


def _board_row(connection: Connection, id: str, owner: str | None) -> Row[Any]:
    statement = select(boards).where(boards.c.id == id)
    if owner is not None:
        statement = statement.where(boards.c.owner == owner)
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise GessoError(f"no board {short(id)}", code="board_missing", data={"id": id[:64]})
    return row


def _boards(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[Board, ...]:
    on = pictures.join(board_pictures, board_pictures.c.picture == pictures.c.number)
    grouped = (
        select(board_pictures.c.board, func.count().label("count"), func.max(pictures.c.number).label("newest"))
        .select_from(on)
        .where(pictures.c.deleted_at.is_(None), board_pictures.c.board.in_([row.id for row in rows]))
        .group_by(board_pictures.c.board)
    )
    found = {row.board: row for row in connection.execute(grouped)}
    newest = [row.newest for row in found.values()]
    covers: dict[int, str] = {}
    for row in connection.execute(select(pictures.c.number, pictures.c.output).where(pictures.c.number.in_(newest))):
        covers[row.number] = row.output
    return tuple(
        Board(
            id=row.id,
            owner=row.owner,
            name=row.name,
            created_at=row.created_at,
            count=found[row.id][1] if row.id in found else 0,
            cover=covers.get(found[row.id].newest) if row.id in found else None,
        )
        for row in rows
    )


def _board_name(name: str) -> str:
    name = " ".join(name.split())
    if not (1 <= len(name) <= MAX_NAME and name.isprintable()):
        raise GessoError(
            f"`name` {short(name)}: expected 1 to {MAX_NAME} printable characters", code="invalid_value", field="name"
        )
    return name
