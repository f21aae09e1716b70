"""Keys: who may use what, and that nobody sees, changes or counts what is another's."""

import base64
import json
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from gesso.api.context import Context, Rule
from gesso.api.openapi import TAGS
from gesso.errors import GessoError
from gesso.server.app import bare_app, check_rules
from gesso.serving.jobs import JobStatus
from gesso.serving.keys import IMPLIED, SCOPES, KeyStore
from serving.served import CAR, PNG, client, context, finish, lease, problem

ALL = [
    (method, route.path, next(one.dependency.scope for one in route.dependencies if isinstance(one.dependency, Rule)))
    for route in bare_app().routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods)
]
ROUTES = list(dict.fromkeys(ALL))
OWN = {
    (method, route.path)
    for route in bare_app().routes
    if isinstance(route, APIRoute) and set(route.tags) & TAGS.keys()
    for method in route.methods
}
# What somebody without any key may see of gesso's own API.
OPEN = {"/healthz", "/readyz", "/openapi.json"}
# What takes a body and changes nothing.
LOOKS = {"/v1/plans", "/v1/prompts", "/v1/metadata", "/v1/images/archive"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with context(tmp_path_factory.mktemp("keys"), rate=10**6) as opened:
        yield opened


@pytest.fixture(scope="module")
def keys(made: Context) -> dict[str, str]:
    """The texts of keys, by what they are."""
    texts = {
        name: made.keys.add(name, scopes)[1]
        for name, scopes in {
            "anna": ("read", "draw"),
            "ben": ("read", "draw"),
            "reader": ("read",),
            "admin": ("admin",),
            "revoked": ("admin",),
        }.items()
    }
    made.keys.revoke("revoked")
    texts["expired"] = made.keys.add("expired", ("admin",), expires_at=time.time() - 1)[1]
    texts["wrong"] = texts["anna"][:-1] + ("A" if texts["anna"][-1] != "A" else "B")
    texts["unknown"] = "gesso_0000000000_" + "x" * 43
    texts["garbage"] = "ü" * 20
    return texts


@pytest.fixture(scope="module")
def asking(made: Context, keys: dict[str, str]) -> Iterator[TestClient]:
    with client(made) as opened:
        yield opened


def header(text: str) -> dict[str, bytes]:
    return {"Authorization": b"Bearer " + text.encode()}


# ---- every route -----------------------------------------------------------------------------------------------------


def forgotten() -> None:
    """A route that says no rule."""


def test_every_route_has_a_rule() -> None:
    own = [(method, path, scope) for method, path, scope in ROUTES if (method, path) in OWN]
    assert {path for _, path, scope in own if scope is None} == OPEN
    assert {scope for _, _, scope in own} == {None, *SCOPES}
    assert {path for method, path, scope in own if method != "GET" and scope == "read"} == LOOKS
    app = FastAPI(openapi_url=None)
    check_rules(bare_app())
    app.add_api_route("/forgotten", forgotten)
    with pytest.raises(ValueError, match="/forgotten has no rule"):
        check_rules(app)


@pytest.mark.parametrize(("method", "path", "scope"), ROUTES, ids=lambda value: str(value))
def test_every_route_asks_everybody(
    made: Context, asking: TestClient, keys: dict[str, str], method: str, path: str, scope: str | None
) -> None:
    """Each cell of routes times identities: refused by who asks, before anything else is looked at."""
    url = path.replace("{id}", "01M8MH9MX9E20SA7BXW3B5T9Q4").replace("{name}", "nothing")
    known = {"anna": ("read", "draw"), "reader": ("read",), "admin": ("admin",)}
    asked = keys if (method, path) in OWN else ("wrong", "reader", "anna")  # the surfaces share the rules
    for name in (None, *asked):
        made.buckets._buckets.clear()
        asks = "HEAD" if path == "/v1/events" else method  # its answer has no end
        answer = asking.request(asks, url, headers={} if name is None else header(keys[name]))
        if asks != method:
            assert answer.status_code == (200 if name in ("anna", "ben", "reader", "admin") else 401), name
            continue
        if scope is None:
            assert answer.status_code < 400 or (method, path) not in OWN, (name, answer.text)
            continue
        own = known.get("anna" if name == "ben" else name or "", ())
        if not own:
            assert answer.status_code == 401, (name, answer.text)
            assert answer.headers["www-authenticate"].startswith("Bearer") or (method, path) not in OWN
        elif scope in own or any(scope in IMPLIED[one] for one in own):
            assert answer.status_code not in (401, 403), (name, answer.text)
        else:
            assert answer.status_code == 403 and "scope" in answer.text, (name, answer.text)
    assert made.store.counts() == {}


def test_a_wrong_key_is_answered_as_none(made: Context, asking: TestClient, keys: dict[str, str]) -> None:
    made.buckets._buckets.clear()
    bodies = {
        asking.get("/v1/jobs", headers=headers).content
        for headers in (
            {},
            header(keys["wrong"]),
            header(keys["revoked"]),
            header("x"),
            {"Authorization": "Basic eDp5"},
        )
    }
    assert len(bodies) == 1


def test_the_key_may_stand_in_another_header_but_not_in_the_address(
    made: Context, asking: TestClient, keys: dict[str, str]
) -> None:
    made.buckets._buckets.clear()
    assert asking.get("/v1/jobs", headers={"X-API-Key": keys["anna"]}).status_code == 200
    problem(asking.get("/v1/jobs", headers={"X-API-Key": "x"}), 401, "unauthorized")
    both = {"X-API-Key": keys["anna"], "Authorization": "Bearer x"}
    problem(asking.get("/v1/jobs", headers=both), 401, "unauthorized")
    problem(asking.get(f"/v1/jobs?key={keys['anna']}"), 401, "unauthorized")


def test_guessing_is_slowed_down(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking:
        _, text = made.keys.add("a")
        answers = [asking.get("/v1/jobs", headers=header(f"gesso_{number}")) for number in range(20)]
        assert {answer.status_code for answer in answers} == {401, 429}
        late = next(answer for answer in answers if answer.status_code == 429)
        assert int(late.headers["retry-after"]) >= 1
        assert asking.get("/v1/jobs", headers=header(text)).status_code == 200, "a key is a key, whoever else guesses"


def test_no_key_is_needed_until_there_is_one(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking:
        assert asking.post("/v1/jobs", json=CAR).status_code == 202
        key, text = made.keys.add("a", ("admin",))
        problem(asking.get("/v1/jobs"), 401, "unauthorized")
        assert len(asking.get("/v1/jobs", headers=header(text)).json()["jobs"]) == 1
        made.keys.revoke(key.id)
        problem(asking.get("/v1/jobs", headers=header(text)), 401, "unauthorized")
        problem(asking.get("/v1/jobs"), 401, "unauthorized")


# ---- what is another's -----------------------------------------------------------------------------------------------


def test_what_is_anothers_is_not_there(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking:
        anna, ben, admin = (header(made.keys.add(name, scopes)[1]) for name, scopes in OWNERS)
        image = asking.post("/v1/assets", files={"file": ("x.png", PNG)}, headers=anna)
        assert image.status_code == 201, image.text
        asset = image.json()["id"]
        body = CAR | {"batch": "mine", "metadata": {"secret": "anna"}}
        job = asking.post("/v1/jobs", json=body, headers=anna | {"Idempotency-Key": "k"}).json()["id"]
        output = finish(made, lease(made))
        mine = [
            *(("GET", f"/v1/jobs/{job}{end}") for end in ("", "/events")),
            *(("POST", f"/v1/jobs/{job}{end}") for end in ("/cancel", "/retry")),
            ("GET", f"/v1/images/{output.id}"),
            ("GET", f"/v1/images/{output.id}/metadata"),
            ("GET", f"/v1/assets/{asset}"),
            ("GET", f"/v1/assets/{asset}/content"),
            ("GET", "/v1/batches/mine"),
            ("POST", "/v1/batches/mine/cancel"),
            ("DELETE", f"/v1/assets/{asset}"),
            ("DELETE", f"/v1/jobs/{job}"),
        ]
        for method, url in mine:
            theirs = asking.request(method, url, headers=ben)
            nothing = asking.request(method, url.replace(job, "0" * 26).replace(asset, "0" * 26), headers=ben)
            told = problem(theirs, 404, "not_found")
            assert "batches" in url or told == nothing.json(), "somebody else's and nobody's look alike"
            if method == "GET":
                assert asking.request(method, url, headers=admin).status_code < 300, url
        assert asking.get("/v1/jobs", headers=ben).json()["jobs"] == []
        assert asking.get("/v1/jobs?batch=mine", headers=ben).json()["jobs"] == []
        with_theirs = {"request": {"prompt": "a car"}, "assets": {"image": asset}}
        problem(asking.post("/v1/jobs", json=with_theirs, headers=ben), 400, "asset_missing")
        again = asking.post("/v1/jobs", json=CAR, headers=ben | {"Idempotency-Key": "k"})
        assert again.status_code == 202 and again.json()["id"] != job, "keys of repeats are everybody's own"
        assert made.store.get(job).status == JobStatus.SUCCEEDED and made.blobs.read(output.digest) == PNG
        for method, url in mine[::-1]:
            expected = {"POST": (200, 202, 404), "GET": (200, 204, 404), "DELETE": (204,)}[method]
            assert asking.request(method, url, headers=anna).status_code in expected, url


OWNERS = (("anna", ("read", "draw")), ("ben", ("read", "draw")), ("admin", ("admin",)))


def test_cursors_tell_nothing_of_how_much_others_draw(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking:
        ann, ben = ({"Authorization": f"Bearer {made.keys.add(name)[1]}"} for name in ("ann", "ben"))

        def draw(who: dict[str, str]) -> None:
            assert asking.post("/v1/jobs", json=CAR, headers=who).status_code == 202
            finish(made, lease(made))

        def page(path: str, **query: Any) -> dict[str, Any]:
            answer = asking.get(path, params={"limit": 1, **query}, headers=ann)
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        for who in (ann, ben, ann):
            draw(who)
        before = page("/v1/images")
        for _ in range(3):
            draw(ben)
        assert page("/v1/images") == before
        draw(ann)
        cursors = {page("/v1/images")["next_cursor"], page("/v1/jobs")["next_cursor"], before["top"]}
        assert len(cursors) == 3 and len({len(one) for one in cursors}) == 1
        for cursor in cursors:
            plain = base64.urlsafe_b64decode(cursor + "==")
            assert b"jobs" not in plain and b"pictures" not in plain
        following = page("/v1/images", cursor=before["next_cursor"])
        assert len(following["images"]) == 1 and following["next_cursor"] is None
        for wrong in (before["top"][:-1], before["top"][:9] + "AA" + before["top"][11:], before["top"] + "AAAA"):
            problem(asking.get("/v1/images", params={"cursor": wrong}, headers=ann), 400, "invalid_value", "cursor")
        problem(asking.get("/v1/jobs", params={"cursor": before["top"]}, headers=ann), 400, "invalid_value", "cursor")


def test_keys_have_limits_of_their_own(tmp_path: Path) -> None:
    with context(tmp_path) as made, client(made) as asking:
        small = header(made.keys.add("small", max_queue=2, rate=60)[1])
        large = header(made.keys.add("large")[1])
        named = [small | {"Idempotency-Key": name} for name in ("a", "b", "c", "a", "b")]
        codes = [asking.post("/v1/jobs", json=CAR, headers=headers).status_code for headers in named]
        assert codes == [202, 202, 429, 200, 200], "what was accepted is answered again, though the queue is full"
        answer = asking.post("/v1/batches", json={"jobs": [CAR]}, headers=small)
        assert problem(answer, 429, "queue_full")["data"]["retry_after"] == int(answer.headers["retry-after"])
        assert asking.post("/v1/jobs", json=CAR, headers=large).status_code == 202
        assert 429 in [asking.get("/v1/samplers", headers=small).status_code for _ in range(12)]
        assert 429 not in [asking.get("/v1/samplers", headers=large).status_code for _ in range(12)]


# ---- the store -------------------------------------------------------------------------------------------------------


def test_no_text_of_a_key_is_kept(tmp_path: Path) -> None:
    with context(tmp_path) as made:
        key, text = made.keys.add("a", ("draw",), max_queue=3, rate=9)
        assert made.keys.find(text) == key and key.prefix in f"{text[:17]}..." and text not in repr(key)
        secret = tmp_path / "secret"
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and len(secret.read_bytes()) == 32
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert text.encode() not in everything and text.split("_", 2)[2].encode() not in everything


def test_a_copied_database_is_of_no_use_without_the_secret(tmp_path: Path) -> None:
    with context(tmp_path) as made:
        _, text = made.keys.add("a")
        (tmp_path / "secret").write_bytes(bytes(32))
        assert KeyStore(made.store.database, tmp_path).find(text) is None
        (tmp_path / "secret").write_bytes(b"short")
        with pytest.raises(GessoError, match="expected 32"):
            KeyStore(made.store.database, tmp_path).find(text)


def test_keys_are_random_and_differ(tmp_path: Path) -> None:
    with context(tmp_path) as made:
        texts = [made.keys.add("a")[1] for _ in range(20)]
        assert len({text[17:] for text in texts}) == 20 and all(len(text) == 60 for text in texts)
        assert [key.name for key in made.keys.list()] == ["a"] * 20
        with pytest.raises(GessoError, match="20 keys are called 'a'") as caught:
            made.keys.revoke("a")
        assert caught.value.code == "ambiguous_name"
        assert made.keys.revoke(texts[0]).id == texts[0][6:16]
        assert made.keys.find(texts[0]) is None and made.keys.find(texts[1]) is not None
        with pytest.raises(GessoError, match="no key in use"):
            made.keys.revoke("nobody")


@pytest.mark.parametrize(
    "arguments",
    [{"name": ""}, {"name": "a\n"}, {"name": "x" * 101}, {"scopes": ()}, {"scopes": ("drow",)}, {"rate": 0}],
    ids=lambda value: json.dumps(value)[:30],
)
def test_keys_are_checked(tmp_path: Path, arguments: dict[str, object]) -> None:
    with context(tmp_path) as made, pytest.raises(GessoError):
        made.keys.add(**{"name": "a", **arguments})  # type: ignore[arg-type]


def test_what_the_database_holds_of_a_key(tmp_path: Path) -> None:
    with context(tmp_path) as made:
        made.keys.add("a")
    with closing(sqlite3.connect(tmp_path / "queue.sqlite3")) as connection:
        ((digest, scopes),) = connection.execute("SELECT digest, scopes FROM api_keys").fetchall()
    assert len(digest) == 64 and json.loads(scopes) == ["read", "draw"]


@pytest.mark.slow
def test_the_time_of_a_refusal_tells_nothing(tmp_path: Path) -> None:
    """A key with a right id and a wrong secret takes as long as one that is nothing (Mann-Whitney)."""
    import math
    import random

    with context(tmp_path) as made:
        _, text = made.keys.add("a")
        near, far = text[:-1] + ("A" if text[-1] != "A" else "B"), text[:17] + "x" * 43
        times: dict[str, list[float]] = {near: [], far: []}
        for _ in range(4000):
            for guess in random.sample([near, far], 2):
                begin = time.perf_counter()
                assert made.keys.find(guess) is None
                times[guess].append(time.perf_counter() - begin)
    ranked = sorted((value, name) for name, values in times.items() for value in values)
    ranks = sum(place for place, (_, name) in enumerate(ranked, 1) if name == near)
    n = 4000
    z = (ranks - n * (2 * n + 1) / 2) / math.sqrt(n * n * (2 * n + 1) / 12)
    assert abs(z) < 3.3, f"z = {z}"


@pytest.mark.slow
def test_ten_thousand_looks_at_what_is_anothers(tmp_path: Path) -> None:
    """Whoever asks for whatever: their own is there, and nothing else is."""
    import random

    chance = random.Random(1)
    with context(tmp_path, rate=10**6) as made, client(made) as asking:
        users = [header(made.keys.add(f"user {number}")[1]) for number in range(4)]
        things: list[tuple[int, str]] = []
        for owner, user in enumerate(users):
            for _ in range(3):
                job = asking.post("/v1/jobs", json=CAR | {"batch": f"batch {owner}"}, headers=user).json()["id"]
                output = finish(made, lease(made))
                things += [(owner, f"/v1/jobs/{job}"), (owner, f"/v1/jobs/{job}/events")]
                things += [(owner, f"/v1/images/{output.id}"), (owner, f"/v1/images/{output.id}/metadata")]
            asset = asking.post("/v1/assets", files={"file": ("x.png", PNG)}, headers=user).json()["id"]
            things += [(owner, f"/v1/assets/{asset}"), (owner, f"/v1/assets/{asset}/content")]
            things += [(owner, f"/v1/batches/batch {owner}"), (owner, f"/v1/jobs?batch=batch {owner}")]
        for _ in range(10_000):
            asker, (owner, url) = chance.randrange(len(users)), chance.choice(things)
            others = ["GET", "GET", "GET", "HEAD", "POST", "DELETE"]
            method = "GET" if asker == owner or "?" in url else chance.choice(others)
            end = chance.choice(["/cancel", "/retry"]) if method == "POST" and "/v1/jobs/" in url else ""
            answer = asking.request(method, url + end, headers=users[asker])
            if "?" in url:
                assert len(answer.json()["jobs"]) == (3 if asker == owner else 0)
            else:
                assert answer.status_code == 200 if asker == owner else answer.status_code in (404, 405), (
                    url,
                    answer.text,
                )
        assert made.store.counts() == {JobStatus.SUCCEEDED: 12}
