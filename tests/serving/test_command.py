"""`gesso serve` and `gesso keys` as processes, asked over HTTP, with the built-in model."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gesso.cli.main import run

CAR = {"request": {"prompt": "a red car", "seed": 7, "num_steps": 4}}


@contextmanager
def serving(home: Path, *options: str, log: str = "serve.log") -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """A server of its own, and a client of it. It ends with the block, well."""
    environment = os.environ | {"GESSO_HOME": str(home), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "gesso", "serve", "--port", "0", *options]
    with open(home / log, "a", encoding="utf-8") as told:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=told, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, (home / log).read_text(encoding="utf-8")
        with httpx.Client(base_url=address, timeout=30) as asking:
            yield asking, process
    finally:
        process.send_signal(signal.SIGTERM)
        if process.stdout is not None:
            process.stdout.close()
        assert process.wait(40) == 0, (home / log).read_text(encoding="utf-8")


def wait_for(asking: httpx.Client, job: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = asking.get(f"/v1/jobs/{job}").json()
        if found["status"] in statuses:
            return found
        assert time.monotonic() < end and found["status"] not in ("failed", "expired"), found
        time.sleep(0.05)


def watched(asking: httpx.Client, job: str) -> list[tuple[str, dict[str, Any]]]:
    """Types and data of a job's events, to its end."""
    seen, kind = [], ""
    with asking.stream("GET", f"/v1/jobs/{job}/events") as answer:
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                seen.append((kind, json.loads(value)))
    return seen


def test_a_picture_from_end_to_end(tmp_path: Path) -> None:
    """One server: it answers at once and without torch, draws, cancels, keeps its jobs when it is started again."""
    with serving(tmp_path, "--log-format", "json") as (asking, process):
        assert asking.get("/healthz").json() == {"status": "ok"}
        if (stat := Path(f"/proc/{process.pid}/stat")).exists():
            spent = sum(map(int, stat.read_text().rpartition(")")[2].split()[11:13])) / os.sysconf("SC_CLK_TCK")
            assert spent < 3, f"the server took {spent} s of a processor until it answered"
        assert asking.get("/readyz").status_code in (200, 503)
        loaded = Path(f"/proc/{process.pid}/maps")
        if loaded.exists():
            assert "libtorch" not in loaded.read_text(), "the server draws nothing, so it needs no torch"
        job = asking.post("/v1/jobs", json=CAR | {"output": {"format": "png"}}).json()["id"]
        seen = watched(asking, job)
        assert [data["status"] for kind, data in seen if kind == "status"] == ["queued", "running", "succeeded"]
        (output,) = (data for kind, data in seen if kind == "output")
        data = asking.get(output["url"]).content
        file = tmp_path / "picture.png"
        file.write_bytes(data)
        recipe = asking.get(output["metadata_url"]).json()["recipe"]
        assert recipe["request"]["seed"] == 7 and recipe["model"] == "gesso-mini"
        ready = asking.get("/readyz")
        assert ready.status_code == 200, ready.text
        plan = asking.post("/v1/plans", json=CAR).json()
        assert plan["time"]["basis"] == "history" and 0 < plan["time"]["seconds"] < 60
        long = asking.post("/v1/jobs", json={"request": {"prompt": "a cat", "num_steps": 1000}}).json()["id"]
        wait_for(asking, long, "running")
        asking.post(f"/v1/jobs/{long}/cancel")
        assert wait_for(asking, long, "canceled")["outputs"] == []
        assert asking.get("/v1/models").json()["models"][0]["loaded"] in (True, False)
        later = asking.post("/v1/jobs", json=CAR, headers={"Idempotency-Key": "later"}).json()["id"]
    with serving(tmp_path) as (asking, process):
        assert asking.get(f"/v1/jobs/{job}").json()["outputs"][0]["id"] == output["id"]
        assert asking.get(output["url"]).content == data
        again = asking.post("/v1/jobs", json=CAR, headers={"Idempotency-Key": "later"})
        assert (again.status_code, again.json()["id"]) == (200, later), "what was accepted is still there"
        found = wait_for(asking, later, "succeeded")
        same = asking.get(found["outputs"][0]["url"]).content
    assert _pixels(same) == _pixels(data), "the same request draws the same picture"
    records = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines() if line.startswith("{")]
    assert any(one["message"] == "request" and one["route"] == "/v1/jobs" and one["status"] == 202 for one in records)
    assert "a red car" not in (tmp_path / "serve.log").read_text()
    from gesso.studio.replay import replay

    verdict, _ = replay(file, threads=1)
    assert verdict.kind == "identical", verdict


def _pixels(data: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return image.tobytes()


@pytest.mark.slow
def test_an_upload_is_drawn_from_and_keys_part_two_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    environment = os.environ | {"GESSO_HOME": str(tmp_path)}

    def keys(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "gesso", "keys", *words],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    anna, ben = ({"Authorization": f"Bearer {keys('add', name)}"} for name in ("anna", "ben"))
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((256, 256)).save(buffer, "PNG")
    with serving(tmp_path) as (asking, _):
        assert asking.get("/v1/jobs").status_code == 401
        asset = asking.post("/v1/assets", files={"file": ("x.png", buffer.getvalue())}, headers=anna).json()["id"]
        request = {"prompt": "a red car", "seed": 7, "num_steps": 4, "source": {"strength": 0.5}}
        body = {"request": request, "assets": {"image": asset, "mask": asset}, "output": {"format": "webp"}}
        answer = asking.post("/v1/jobs", json=body, headers=anna)
        assert answer.status_code == 202, answer.text
        job = answer.json()["id"]
        end = time.monotonic() + 60
        while (found := asking.get(f"/v1/jobs/{job}", headers=anna).json())["status"] != "succeeded":
            assert time.monotonic() < end and found["status"] != "failed", found
            time.sleep(0.05)
        (output,) = found["outputs"]
        assert output["content_type"] == "image/webp"
        assert asking.get(output["url"], headers=anna).content[8:12] == b"WEBP"
        for url in (found["urls"]["self"], output["url"], output["metadata_url"], f"/v1/assets/{asset}"):
            assert asking.get(url, headers=ben).status_code == 404, url
        assert asking.get("/v1/jobs", headers=ben).json()["jobs"] == []
        assert "revoked" in keys("revoke", "anna")
        assert asking.get(found["urls"]["self"], headers=anna).status_code == 401, "from the next request on"


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Python and its curl, one after the other, against a server of its own."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").save("photo.jpg")
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(python|sh)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    kinds = [kind for kind, text in found if kind == "python" or "curl" in text]
    assert kinds == ["sh", "python", "sh", "sh", "sh", "python"]
    with serving(tmp_path) as (asking, _):
        variables: dict[str, str] = {}
        for kind, text in found:
            text = text.replace("http://127.0.0.1:7860", str(asking.base_url).rstrip("/"))
            if kind == "python" and "httpx" not in text:
                continue  # the check of signatures, see test_security
            if kind == "python":
                names: dict[str, Any] = {"print": lambda *_: None}
                exec(compile(text, "docs/serving.md", "exec"), names)
                names["server"].close()
                with Image.open("car.png") as drawn:
                    assert drawn.size == (256, 256)
            elif "curl" in text and shutil.which("curl"):
                for command in re.split(r"^(?=curl)", text, flags=re.MULTILINE)[1:]:
                    done = subprocess.run(
                        ["bash", "-c", command], capture_output=True, text=True, env=os.environ | variables, check=True
                    )
                    if done.stdout.startswith("{"):
                        answer = json.loads(done.stdout)
                        if "images" in answer:
                            variables["PICTURE"] = answer["images"][0]["id"]
                            continue
                        assert "id" in answer, answer
                        variables["ASSET" if "content_url" in answer else "JOB"] = answer["id"]
                    else:
                        assert '"status":"succeeded"' in done.stdout


def test_another_address_needs_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("GESSO_HOME", str(tmp_path))
    assert run(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2
    told = capsys.readouterr().err
    assert "gesso keys add" in told and "0.0.0.0" in told and told.count("\n") == 1
    assert run(["keys", "add", "a", "--json"]) == 0
    key = json.loads(capsys.readouterr().out)
    assert run(["keys", "revoke", key["prefix"]]) == 0
    assert run(["serve", "--host", "0.0.0.0", "--port", "0"]) == 2, "a revoked key is none"


def test_an_address_that_is_taken_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import socket

    monkeypatch.setenv("GESSO_HOME", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert run(["serve", "--workers", "0", "--port", str(taken.getsockname()[1])]) == 2
    assert "--port" in capsys.readouterr().err


def test_keys_are_made_listed_and_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("GESSO_HOME", str(tmp_path))
    assert run(["keys", "list"]) == 0
    assert "gesso keys add" in capsys.readouterr().out
    assert run(["keys", "add", "anna", "--scope", "read", "--rate", "60", "--days", "1"]) == 0
    text = capsys.readouterr().out.strip()
    assert re.fullmatch(r"gesso_[0-9a-z]{10}_[\w-]{43}", text)
    assert run(["keys", "list"]) == 0
    out = capsys.readouterr().out
    assert f"{text[:17]}..." in out and "anna" in out and "valid until" in out and text not in out
    assert run(["keys", "revoke", "anna"]) == 0
    assert run(["keys", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == []
    assert run(["keys", "list", "--all"]) == 0
    assert "revoked" in capsys.readouterr().out
    assert run(["keys", "revoke", "anna"]) == 2
    assert run(["keys", "add", "x", "--scope", "drow"]) == 2
    assert "admin" in capsys.readouterr().err


@pytest.mark.slow
def test_the_server_imports_no_torch() -> None:
    code = """
import sys
import gesso.server.run, gesso.cli.serve
from gesso.server.app import bare_app
bare_app()
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
