"""The hub's client against a server on this machine that speaks the few calls that are needed."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import tiny_sd
from gesso.errors import GessoError
from gesso.library.hub import HubName, choose_files
from library import shelf

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NEWER = "f" * 40


# ---- names and choices, without any network --------------------------------------------------------------------------


def test_names():
    assert HubName.parse("hf:a/b") == HubName("a/b", "main", "")
    assert HubName.parse("hf:a/b.c@refs/pr/1:sub/x.safetensors") == HubName("a/b.c", "refs/pr/1", "sub/x.safetensors")
    assert HubName("a/b", "main", "x.safetensors").at("123") == "hf:a/b@123:x.safetensors"
    wrong = ("hf:", "hf:a", "hf:a/b/c", "hf:a/../b", "hf:a/b:../x.safetensors", "hf:a/b:/x.safetensors", "hf:a/b@", "x")
    for text in (*wrong, "hf:a/b:x.ckpt", "hf:a/b:x\n.safetensors"):
        with pytest.raises(GessoError):
            HubName.parse(text)


FOLDER = [
    "model_index.json",
    "README.md",
    "run.py",
    "v1-5.safetensors",
    "v1-5.ckpt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "text_encoder/config.json",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "text_encoder/model.safetensors.index.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "scheduler/scheduler_config.json",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "../outside/config.json",
    "unet/deep/er.json",
]


def test_each_part_once_and_nothing_that_runs():
    chosen = choose_files("hf:a/b", "", FOLDER)
    assert chosen[0] == "model_index.json"
    assert set(chosen) == {
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "text_encoder/config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
    }
    assert choose_files("hf:a/b", "v1-5.safetensors", FOLDER) == ["v1-5.safetensors"]
    assert choose_files("hf:a/b", "", ["x.safetensors", "y.ckpt"]) == ["x.safetensors"]
    for file, listed, words in (
        ("", ["a.safetensors", "b.safetensors"], "Choose one: hf:a/b:FILE"),
        ("", ["a.ckpt"], "it has none"),
        ("c.safetensors", ["a.safetensors"], "has no c.safetensors; it has a.safetensors"),
    ):
        with pytest.raises(GessoError, match=words):
            choose_files("hf:a/b", file, listed)


# ---- the whole way ---------------------------------------------------------------------------------------------------


@dataclass
class Hub:
    """A server with one repository, gesso/tiny. requests: what it was asked for."""

    files: dict[str, bytes]
    commit: str = COMMIT
    lie: bool = False  # state other hashes than those of the files
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def info(self) -> dict[str, Any]:
        siblings = []
        for name, data in self.files.items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
            if name.endswith(".safetensors"):
                digest = "0" * 64 if self.lie else hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return {"_id": "1", "id": "gesso/tiny", "modelId": "gesso/tiny", "sha": self.commit, "siblings": siblings,
                "private": False, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if path.startswith("/api/models/gesso/tiny/revision/"):
                revision = path.rpartition("/")[2]
                if revision in ("main", hub.commit):
                    return self.send(200, json.dumps(hub.info()).encode(), {"Content-Type": "application/json"})
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            prefix = f"/gesso/tiny/resolve/{hub.commit}/"
            if path.startswith(prefix) and path.removeprefix(prefix) in hub.files:
                data = hub.files[path.removeprefix(prefix)]
                headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": hub.commit}
                return self.send(200, data, headers, body=body)
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        def send(self, code: int, data: bytes, headers: Mapping[str, str], *, body: bool = True) -> None:
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    hub = Hub({"tiny.safetensors": shelf.checkpoint(tmp_path / "upload" / "tiny.safetensors").read_bytes()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    server.server_close()


_CHILD = """
import contextlib, io, json, sys
from gesso.cli.main import run

for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
Done = subprocess.CompletedProcess[str]


@contextmanager
def gesso(hub: Hub, folder: Path, **more: str) -> Iterator[Callable[..., Done]]:
    """`gesso models`, one command after another in a process of their own: the client reads its switches when it is
    imported, and all else that is imported takes a second."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS"))}
    environ |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "GESSO_HOME": str(folder / "home"),
        "NO_PROXY": "127.0.0.1",
        **more,
    }
    command = [sys.executable, "-c", _CHILD]
    with subprocess.Popen(
        command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as child:
        assert child.stdin is not None and child.stdout is not None
        written, answers = child.stdin, child.stdout

        def run(*argv: str) -> Done:
            print(json.dumps(["models", *argv]), file=written, flush=True)
            code, out, err = json.loads(answers.readline())
            return subprocess.CompletedProcess(argv, code, out, err)

        yield run
        written.close()
        assert child.wait(60) == 0


def test_fetched_once_and_pinned(hub: Hub, tmp_path: Path):
    with gesso(hub, tmp_path) as run:
        done = run("import", "hf:gesso/tiny", "--json")
        assert done.returncode == 0, done.stderr
        entry = json.loads(done.stdout)
        assert (entry["name"], entry["family"], entry["origin"]) == ("gesso/tiny", "gesso-mini", "hub")
        assert entry["source"] == f"hf:gesso/tiny@{COMMIT}"
        assert Path(entry["path"]).read_bytes() == hub.files["tiny.safetensors"]
        assert entry["files"][0]["sha256"] == hashlib.sha256(hub.files["tiny.safetensors"]).hexdigest()
    # The name stays what it was, without a question to the network, until it is asked for anew.
    hub.commit, hub.files["tiny.safetensors"] = NEWER, shelf.checkpoint(tmp_path / "n.safetensors", seed=1).read_bytes()
    hub.requests.clear()
    with gesso(hub, tmp_path) as run:
        again = json.loads(run("import", "hf:gesso/tiny", "--json", "-q").stdout)
        assert (again["source"], hub.requests) == (entry["source"], [])
        newer = json.loads(run("import", "hf:gesso/tiny", "--update", "--json", "-q").stdout)
        assert newer["source"] == f"hf:gesso/tiny@{NEWER}"
        pinned = json.loads(run("import", f"hf:gesso/tiny@{COMMIT}", "--json", "-q").stdout)
        assert pinned["path"] == entry["path"]


@pytest.mark.slow
def test_a_whole_folder_and_the_offline_switches(hub: Hub, tmp_path: Path):
    tiny_sd.save_tiny_folder(tmp_path / "sd")
    hub.files = {**shelf.tree(tmp_path / "sd"), "run.py": b"raise SystemExit", "unet/model.bin": b"\x80\x02"}
    for switch in ({"HF_HUB_OFFLINE": "1"}, {"TRANSFORMERS_OFFLINE": "YES"}):
        with gesso(hub, tmp_path, **switch) as run:
            done = run("import", "hf:gesso/tiny")
            assert (done.returncode, done.stdout) == (2, "")
            assert "offline" in done.stderr
    with gesso(hub, tmp_path) as run:
        assert "offline" in run("import", "hf:gesso/tiny", "--offline").stderr
        assert hub.requests == []
        done = run("import", "hf:gesso/tiny", "--json", "-q")
    assert done.returncode == 0, done.stderr
    entry = json.loads(done.stdout)
    assert (entry["layout"], entry["family"], len(entry["files"])) == ("diffusers", "sd15", 3)
    asked = " ".join(hub.requests)
    assert "run.py" not in asked and ".bin" not in asked
    with gesso(hub, tmp_path, HF_HUB_OFFLINE="1") as run:
        assert json.loads(run("info", "gesso/tiny", "--json").stdout)["family"] == "sd15"


def test_what_goes_wrong_is_told(hub: Hub, tmp_path: Path):
    hub.lie = True
    with gesso(hub, tmp_path) as run:
        done = run("import", "hf:gesso/tiny", "-q")
        assert (done.returncode, done.stdout) == (2, "")
        assert "differs from the file that the hub lists" in done.stderr
        for name, words in (
            ("hf:gesso/other", "no such repository"),
            ("hf:gesso/tiny@nowhere", "no such revision"),
            ("hf:gesso/tiny:x.safetensors", "it has tiny.safetensors"),
        ):
            done = run("import", name, "-q")
            assert done.returncode == 2
            assert done.stderr.count("\n") == 1
            assert words in done.stderr
    hub.url = "http://127.0.0.1:9"  # the port of "discard", where nobody listens
    with gesso(hub, tmp_path) as run:
        done = run("import", "hf:gesso/tiny", "-q")
        assert done.returncode == 2
        assert "cannot be fetched" in done.stderr
        assert {entry["origin"] for entry in json.loads(run("list", "--json").stdout)} == {"carried"}
