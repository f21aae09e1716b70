"""The library of pictures: lists, searches, stars, boards, deleting and bringing back, thumbnails, ZIP files."""

import io
import json
import random
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import insert, text, update
from starlette.testclient import TestClient

from gesso.api.context import Context
from gesso.errors import GessoError
from gesso.serving.blobs import BlobStore
from gesso.serving.database import Database
from gesso.serving.gallery import Filter, Gallery
from gesso.serving.jobs import Output
from gesso.serving.picture_rows import row_of, words_of
from gesso.serving.store import TRASH_SECONDS, JobStore
from gesso.serving.tables import jobs, outputs, pictures
from gesso.serving.thumbnails import Thumbnails
from serving.served import client, context, lease, problem


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Context]:
    with context(tmp_path, rate=10**6) as opened:
        yield opened


@pytest.fixture
def asking(made: Context) -> Iterator[TestClient]:
    with client(made) as opened:
        yield opened


def picture(colour: str = "red", size: tuple[int, int] = (640, 320)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def draw(made: Context, asking: TestClient, prompt: str, *, count: int = 1, **settings: Any) -> list[str]:
    """The ids of finished pictures of one job."""
    request = {"prompt": prompt, "seed": 7, "num_steps": 8, "num_images": count, **settings}
    assert asking.post("/v1/jobs", json={"request": request}).status_code == 202
    held = lease(made)
    for index in range(count):
        data = picture()
        output = Output(
            id=f"{held.job.id}-{index}",
            index=index,
            content_type="image/png",
            nbytes=len(data),
            width=640,
            height=320,
            digest=made.blobs.put(data),
            seed=7,
            recipe={"schema": "gesso.recipe", "request": {**request, "sampler": "euler", "num_images": 1}},
            notices=({"code": "words_ignored", "message": "unknown words", "field": "prompt", "data": {}},),
        )
        assert made.store.add_output(held, output)
    assert made.store.finish(held)
    return [f"{held.job.id}-{index}" for index in range(count)]


def listed(asking: TestClient, **query: Any) -> list[str]:
    answer = asking.get("/v1/images", params=query)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["total"] >= len(found["images"])
    return [one["id"] for one in found["images"]]


def change(asking: TestClient, *ids: str, **values: Any) -> dict[str, Any]:
    answer = asking.post("/v1/images/changes", json={"images": ids, **values})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


# ---- lists -----------------------------------------------------------------------------------------------------------


def test_pictures_are_listed_newest_first(made: Context, asking: TestClient) -> None:
    (car,) = draw(made, asking, "a red car", num_steps=4)
    cats = draw(made, asking, "two cats", count=2, negative_prompt="dogs")
    assert listed(asking) == [cats[1], cats[0], car]
    first = asking.get("/v1/images").json()["images"][0]
    assert (first["prompt"], first["negative_prompt"], first["model"]) == ("two cats", "dogs", "gesso-mini")
    assert (first["width"], first["height"], first["seed"], first["index"]) == (640, 320, 7, 1)
    assert (first["starred"], first["boards"], first["deleted_at"], first["notices"]) == (False, [], None, 1)
    assert asking.get(first["url"]).status_code == asking.get(first["thumbnail_url"]).status_code == 200
    metadata = asking.get(first["metadata_url"]).json()
    assert metadata["library"] == first and metadata["settings"]["sampler"] == "euler"
    assert metadata["submitted"]["num_images"] == 2 and metadata["assets"] == {}
    assert listed(asking, job=first["job"]) == [cats[1], cats[0]] and listed(asking, model="other") == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("car", "car"),
        ("CAR red", "car"),
        ("red -car", ""),
        ("dogs", "cats"),
        ("steps:8", "cats"),
        ("steps:1", ""),
        ("steps:12", "car"),
        ("seed:7", "cats car"),
        ("seed:77", ""),
        ("sampler:euler two", "cats"),
        ("size:640x320 model:gesso-mini", "cats car"),
        ("100%", ""),
        ("_", ""),
        ("'; DROP TABLE pictures; --", ""),
        ("   ", "cats car"),
    ],
)
@pytest.mark.sampled(2)
def test_searches(made: Context, asking: TestClient, query: str, found: str) -> None:
    ids = {"car": draw(made, asking, "a red car", num_steps=12)[0]}
    ids["cats"] = draw(made, asking, "two cats", negative_prompt="dogs")[0]
    assert listed(asking, q=query) == [ids[name] for name in found.split()]


def test_words_are_those_of_prompts_and_settings() -> None:
    request = {
        "prompt": "A  Cat\n<lora:x:1> <LYCO:Old>",
        "loras": [{"name": "Ink"}],
        "guidance_scale": 2.5,
        "source": {"strength": 0.6},
        "controls": [{"model": "edges"}],
        "num_steps": True,
    }
    words = words_of(request, "a {cat|dog}", model="m", seed=2**64 - 1, size=(8, 16))
    named = ("lora:ink", "lora:x", "lora:old", "control:edges")
    for word in ("a cat", "seed:18446744073709551615", "guidance:2.5", "strength:0.6", *named):
        assert f" {word} " in words, words
    assert "{cat|dog}" in words and "steps" not in words


def test_any_part_of_a_list_can_be_had(made: Context, asking: TestClient) -> None:
    ids = draw(made, asking, "many", count=25)[::-1]
    page = asking.get("/v1/images", params={"limit": 10}).json()
    assert [one["id"] for one in page["images"]] == ids[:10] and page["total"] == 25
    newer = draw(made, asking, "newer")
    following = asking.get("/v1/images", params={"limit": 10, "cursor": page["next_cursor"]}).json()
    assert [one["id"] for one in following["images"]] == ids[10:20]
    far = asking.get("/v1/images", params={"limit": 10, "cursor": page["top"], "skip": 20}).json()
    assert [one["id"] for one in far["images"]] == ids[20:] and far["next_cursor"] is None
    assert far["total"] == 25 and far["top"] == page["top"], "what is newer moves nothing"
    assert listed(asking, limit=1) == newer
    for wrong in ({"cursor": "x"}, {"limit": 0}, {"skip": -1}, {"limit": 201}, {"q": "x" * 501}, {"q": "a " * 17}):
        assert asking.get("/v1/images", params=wrong).status_code == 400, wrong


def test_days_add_up_to_places_in_the_list(made: Context, asking: TestClient) -> None:
    ids = [*draw(made, asking, "a red car", count=3), *draw(made, asking, "a blue car", count=2)]
    hour = 3600.0
    ends = [10 * hour, 23.5 * hour, 24.5 * hour, 25 * hour, 40 * 24 * hour]  # since 1970, in UTC
    with made.store.database.writing() as connection:
        for id, at in zip(ids, ends, strict=True):
            connection.execute(update(pictures).where(pictures.c.output == id).values(created_at=at))

    def days(**query: Any) -> list[tuple[str, int]]:
        answer = asking.get("/v1/images/days", params=query)
        assert answer.status_code == 200, answer.text
        return [(one["day"], one["images"]) for one in answer.json()["days"]]

    assert days() == [("1970-02-10", 1), ("1970-01-02", 2), ("1970-01-01", 2)]
    assert days(east=60) == [("1970-02-10", 1), ("1970-01-02", 3), ("1970-01-01", 1)]
    assert days(east=-90) == [("1970-02-09", 1), ("1970-01-01", 4)]
    assert days(q="red") == [("1970-01-02", 1), ("1970-01-01", 2)] and days(q="green") == []
    place = days()[0][1]
    assert listed(asking, skip=place, limit=1) == [ids[3]]
    problem(asking.get("/v1/images/days?east=1441"), 400, "invalid_field")


@pytest.mark.slow
def test_fifty_thousand_pictures_are_listed_quickly(tmp_path: Path) -> None:
    """The processor time of a page, of one in the middle and of a search, on two busy cores."""
    store = JobStore(tmp_path / "queue.db")
    fill(store.database, 50_000)
    gallery = Gallery(store.database)
    top = gallery.list(Filter(owner="local")).top
    cases = {
        "first": lambda: gallery.list(Filter(owner="local")),
        "middle": lambda: gallery.list(Filter(owner="local"), cursor=top, skip=25_000),
        "end": lambda: gallery.list(Filter(owner="local"), cursor=top, skip=49_900),
        "everybody's": lambda: gallery.list(Filter(), cursor=top, skip=40_000),
        "stars": lambda: gallery.list(Filter(owner="local", starred=True)),
        "search": lambda: gallery.list(Filter(owner="local", query="red zebra seed:77")),
        "nothing": lambda: gallery.list(Filter(owner="local", query="no such words")),
    }
    took: dict[str, float] = {}
    for name, ask in cases.items():
        assert (name == "nothing") == (not ask().pictures)
        times = []
        for _ in range(8):
            begin = time.process_time()  # a clock on the wall tells what else the machine does
            ask()
            times.append(time.process_time() - begin)
        took[name] = min(times)
    store.close()
    assert all(seconds < (0.5 if name in ("search", "nothing") else 0.15) for name, seconds in took.items()), took


def fill(database: Database, count: int, owner: str = "local") -> None:
    """Rows of so many pictures."""
    draws = random.Random(1)
    words = ("red", "green", "car", "cat", "zebra", "house", "tree", "on", "under", "the", "sea", "sky", "at", "night")
    with database.writing() as connection:
        for start in range(0, count, 5000):
            rows = [_rows(number, owner, " ".join(draws.choices(words, k=24))) for number in range(start, start + 5000)]
            for table, place in ((jobs, 0), (outputs, 1), (pictures, 2)):
                connection.execute(insert(table), [row[place] for row in rows])


def _rows(number: int, owner: str, prompt: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    id = f"{number:026d}"
    work = {"request": {"prompt": prompt, "num_steps": 20, "width": 512, "height": 512}}
    job = {"id": id, "owner": owner, "status": "succeeded", "priority": 0, "model": "gesso-mini", "cost": 1.0}
    job |= {"work": work, "work_hash": "0", "metadata": {}, "created_at": float(number), "attempts": 1, "crashes": 0}
    job |= {"fence": 1, "last_event": 1, "progress": {}, "webhook_tries": 0}
    recipe = {"request": work["request"], "filling": "x" * 3000}
    output = {"id": f"{id}-0", "job": id, "index": 0, "content_type": "image/png", "nbytes": 1, "width": 512}
    output |= {"height": 512, "digest": f"{number:064x}", "seed": str(number % 100), "recipe": recipe, "notices": []}
    seed, at = number % 100, float(number)
    row = row_of(
        output=output["id"],
        job=id,
        owner=owner,
        batch=None,
        model="gesso-mini",
        work=work,
        recipe=recipe,
        seed=seed,
        size=(512, 512),
        at=at,
    )
    return job, output, row | {"starred": number % 40 == 0}


# ---- changes ---------------------------------------------------------------------------------------------------------


def test_stars_and_boards(made: Context, asking: TestClient) -> None:
    ids = draw(made, asking, "cats", count=3)
    assert [one["starred"] for one in change(asking, ids[0], ids[2], starred=True)["images"]] == [True, True]
    assert listed(asking, starred=True) == [ids[2], ids[0]]
    change(asking, ids[0], starred=False)
    assert listed(asking, starred=True) == [ids[2]]
    board = asking.post("/v1/boards", json={"name": "  Best   cats "}).json()
    assert (board["name"], board["pictures"], board["cover"]) == ("Best cats", 0, None)
    for _ in range(2):
        change(asking, *ids[:2], add_to=board["id"])
    assert listed(asking, board=board["id"]) == [ids[1], ids[0]]
    (shown,) = asking.get("/v1/boards").json()["boards"]
    assert (shown["pictures"], shown["cover"]) == (2, ids[1]) and asking.get(shown["cover_url"]).status_code == 200
    found = change(asking, ids[1], remove_from=board["id"], starred=True)["images"][0]
    assert (found["boards"], found["starred"]) == ([], True)
    assert asking.post(board["url"], json={"name": "Cats"}).json()["name"] == "Cats"
    assert asking.delete(board["url"]).status_code == 204 and asking.get("/v1/boards").json() == {"boards": []}
    assert len(listed(asking)) == 3, "the pictures of a board stay"
    problem(asking.delete(board["url"]), 404, "not_found")
    problem(asking.post("/v1/images/changes", json={"images": ids, "add_to": board["id"]}), 404, "not_found")
    problem(asking.post("/v1/images/changes", json={"images": ids}), 400, "invalid_field", "starred")
    for name in ("", "   ", "x" * 101, "a\u202eb", 7):
        assert asking.post("/v1/boards", json={"name": name}).status_code == 400, name


def test_deleting_can_be_undone(made: Context, asking: TestClient) -> None:
    ids = draw(made, asking, "cats", count=3)
    answer = change(asking, *ids[:2], "nothing-0", deleted=True)
    assert answer["missing"] == ["nothing-0"] and all(one["deleted_at"] for one in answer["images"])
    assert listed(asking) == [ids[2]] and listed(asking, deleted=True) == [ids[1], ids[0]]
    job = asking.get(f"/v1/jobs/{ids[0].partition('-')[0]}").json()
    assert [one["id"] for one in job["outputs"]] == [ids[2]]
    assert asking.get(f"/v1/images/{ids[0]}/thumbnail").status_code == 200, "those that can be brought back are shown"
    change(asking, ids[0], deleted=False)
    assert listed(asking) == [ids[2], ids[0]] and listed(asking, deleted=True) == [ids[1]]


def test_deleted_pictures_are_purged_and_kept_ones_stay(tmp_path: Path) -> None:
    clock = [1_700_000_000.0]
    with context(tmp_path, keep=100) as made, client(made) as asking:
        made.store._clock = made.gallery._clock = lambda: clock[0]
        (gone,), (starred,), (plain,), (pinned,) = (draw(made, asking, name) for name in "abcd")
        change(asking, starred, starred=True)
        change(asking, pinned, add_to=asking.post("/v1/boards", json={"name": "x"}).json()["id"])
        change(asking, gone, deleted=True)
        clock[0] += 101
        assert made.store.sweep() == 2, "the jobs without a star, and the pictures with them"
        assert listed(asking) == [pinned, starred] and listed(asking, deleted=True) == []
        change(asking, starred, pinned, deleted=True)
        clock[0] += TRASH_SECONDS - 1
        change(asking, pinned, deleted=False)
        clock[0] += 2
        made.store.sweep()
        assert listed(asking) == [pinned] and listed(asking, deleted=True) == []
        problem(asking.get(f"/v1/images/{starred}"), 404, "not_found")
        problem(asking.get(f"/v1/images/{plain}/thumbnail"), 404, "not_found")


def test_by_default_nothing_is_forgotten_on_ones_own_machine(made: Context, asking: TestClient, tmp_path: Path) -> None:
    (id,) = draw(made, asking, "cat")
    assert asking.get(f"/v1/jobs/{id.partition('-')[0]}").json()["expires_at"] is None
    assert replace(made.settings, host="0.0.0.0").keep_seconds == 7 * 86_400
    assert replace(made.settings, keep=60.0).keep_seconds == 60.0


# ---- whose ---------------------------------------------------------------------------------------------------------


def test_one_keys_library_is_not_anothers(made: Context) -> None:
    texts = {name: made.keys.add(name)[1] for name in ("ann", "bob")}
    admin = made.keys.add("root", scopes=("admin",))[1]
    reader = made.keys.add("reader", scopes=("read",))[1]
    with client(made, texts["ann"]) as ann, client(made, texts["bob"]) as bob, client(made, admin) as root:
        (id,) = draw(made, ann, "secret cat")
        board = ann.post("/v1/boards", json={"name": "mine"}).json()
        assert listed(ann) == [id] == listed(root) and listed(bob) == [] == listed(bob, q="secret")
        assert bob.get("/v1/boards").json() == {"boards": []}
        assert change(bob, id, deleted=True) == {"images": [], "missing": [id]}
        for path in ("", "/thumbnail", "/metadata"):
            problem(bob.get(f"/v1/images/{id}{path}"), 404, "not_found")
        problem(bob.post(f"/v1/images/{id}/asset"), 404, "not_found")
        problem(bob.post("/v1/images/archive", json={"images": [id]}), 404, "not_found")
        problem(bob.post("/v1/images/changes", json={"images": [id], "add_to": board["id"]}), 404, "not_found")
        problem(bob.post(board["url"], json={"name": "bob's"}), 404, "not_found")
        problem(bob.delete(board["url"]), 404, "not_found")
        assert listed(bob, board=board["id"]) == [] and listed(ann) == [id]
        own = draw(made, bob, "a dog")
        problem(bob.post("/v1/images/changes", json={"images": own, "add_to": board["id"]}), 404, "not_found")
        ann.post("/v1/queue/pause")
        assert ann.get("/v1/queue").json()["paused"] and not bob.get("/v1/queue").json()["paused"]
    with client(made, reader) as reads:
        assert reads.get("/v1/images").status_code == 200
        for path, body in (("/v1/boards", {"name": "x"}), ("/v1/images/changes", {"images": [id], "deleted": True})):
            problem(reads.post(path, json=body), 403, "forbidden")


# ---- files -----------------------------------------------------------------------------------------------------------


def test_thumbnails_are_small_and_cached(made: Context, asking: TestClient) -> None:
    (id,) = draw(made, asking, "cat")
    for asked, side in ((16, 128), (128, 128), (200, 256), (512, 512)):
        answer = asking.get(f"/v1/images/{id}/thumbnail", params={"size": asked})
        assert answer.headers["content-type"] == "image/webp" and "immutable" in answer.headers["cache-control"]
        assert Image.open(io.BytesIO(answer.content)).size == (side, side // 2)
    assert len(answer.content) < 4096
    again = asking.get(f"/v1/images/{id}/thumbnail?size=512", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    for wrong in ("513", "0", "x"):
        assert asking.get(f"/v1/images/{id}/thumbnail?size={wrong}").status_code == 400
    digest = made.store.output(id).digest
    made.blobs.path(digest).unlink()
    assert asking.get(f"/v1/images/{id}/thumbnail?size=512").content == answer.content, "it was kept"
    assert len(list(made.thumbnails.root.rglob("*.webp"))) == 3
    assert made.thumbnails.sweep(made.store.referenced) == 0
    made.store.delete(id.partition("-")[0])
    assert made.thumbnails.sweep(made.store.referenced) == 3


def test_a_thumbnail_is_never_larger_than_its_picture(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    made = Thumbnails(tmp_path / "small", blobs)
    assert Image.open(io.BytesIO(made.get(blobs.put(picture(size=(30, 20))), 256))).size == (30, 20)
    clear = io.BytesIO()
    Image.new("RGBA", (300, 300), (0, 0, 0, 0)).save(clear, "PNG")
    assert Image.open(io.BytesIO(made.get(blobs.put(clear.getvalue()), 128))).mode == "RGBA"
    with pytest.raises(GessoError, match="readable"):
        made.get(blobs.put(b"no picture"), 128)
    with pytest.raises(ValueError, match="expected"):
        made.get("../../etc/passwd", 128)
    with pytest.raises(ValueError, match="expected"):
        made.get("0" * 64, 4096)


def test_a_zip_file_has_pictures_and_their_settings(made: Context, asking: TestClient) -> None:
    (first,) = draw(made, asking, "Ein rotes Auto / ../../x <b>")
    second, hidden = draw(made, asking, "../", count=2)
    change(asking, hidden, deleted=True)
    answer = asking.post("/v1/images/archive", json={"images": [second, first, second, hidden, "nothing-0"]})
    assert answer.headers["content-type"] == "application/zip"
    assert "content-length" not in answer.headers, "it is written as it is read"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names == [
            "0001-picture-7.png",
            "0001-picture-7.json",
            "0002-ein-rotes-auto-x-b-7.png",
            "0002-ein-rotes-auto-x-b-7.json",
        ]
        assert archive.read(names[2]) == picture()
        settings = json.loads(archive.read(names[3]))
        assert settings["id"] == first and settings["settings"]["prompt"] == "Ein rotes Auto / ../../x <b>"
    problem(asking.post("/v1/images/archive", json={"images": ["nothing-0"]}), 404, "not_found", "images")
    problem(asking.post("/v1/images/archive", json={"images": []}), 400, "invalid_field", "images")


def test_a_finished_picture_can_be_drawn_from(made: Context, asking: TestClient) -> None:
    (id,) = draw(made, asking, "cat")
    asset = asking.post(f"/v1/images/{id}/asset")
    assert asset.status_code == 201 and asset.json()["width"] == 640
    again = asking.post(f"/v1/images/{id}/asset")
    assert again.status_code == 200 and again.json()["id"] == asset.json()["id"]
    body = {"request": {"prompt": "a dog", "source": {"strength": 0.5}}, "assets": {"image": asset.json()["id"]}}
    assert asking.post("/v1/jobs", json=body).status_code == 202


# ---- the database ----------------------------------------------------------------------------------------------------


def test_pictures_of_before_have_their_places(tmp_path: Path) -> None:
    """A database of the release before, with pictures in it, is brought up to date with all of them."""
    from alembic import command
    from alembic.config import Config

    import gesso.serving

    store = JobStore(tmp_path / "queue.db")
    fill(store.database, 5000)
    before = [(one.id, one.prompt, one.number) for one in Gallery(store.database).list(Filter(), limit=1000).pictures]
    config = Config()
    config.set_main_option("script_location", str(Path(gesso.serving.__file__).parent / "migrations"))
    config.attributes["version_table"] = "gesso_queue"
    with store.database.writing() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
        names = set(connection.scalars(text("SELECT name FROM sqlite_master")))
        assert not names & {"pictures", "boards", "board_pictures"} and "outputs" in names
    store.close()
    store = JobStore(tmp_path / "queue.db")
    gallery = Gallery(store.database)
    page = gallery.list(Filter(), limit=1000)
    assert page.total == 5000 and [(one.id, one.prompt, one.number) for one in page.pictures] == before
    assert gallery.list(Filter(query="seed:77 steps:20")).total == 50
    assert not store.is_paused("local")
    store.close()
