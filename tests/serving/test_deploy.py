"""The files of deploy/: what the tools that read them say of them, and that they fit the program."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gesso.serving.settings import PREFIX, setting_rows

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT, CONTAINER, COMPOSE = DEPLOY / "gesso.service", DEPLOY / "Containerfile", DEPLOY / "compose.yaml"


def tool(name: str) -> str:
    """A program beside Python or on the path. Skips where it is not installed."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def compose() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    read: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return read


def test_no_page_installs_by_a_name_that_is_another_projects() -> None:
    """A stranger's package on PyPI is called gesso too: whoever typed `pip install 'gesso[serve]'` as root got that."""
    told = re.compile(r"\b(pip|pipx|uv)\b[^\n`]*\binstall\b[^\n`]*[ '\"]gesso(?=[\['\"\s`<>=]|$)", re.MULTILINE)
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *DEPLOY.iterdir()]
    for page in (page for page in pages if page.is_file() and page.suffix != ".json"):
        assert not told.search(page.read_text(encoding="utf-8")), page.name


# ---- systemd ---------------------------------------------------------------------------------------------------------


def test_systemd_understands_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    text = UNIT.read_text(encoding="utf-8")
    assert "ExecStart=/opt/gesso/bin/gesso serve" in text
    unit = tmp_path / "gesso.service"
    unit.write_text(text.replace("/opt/gesso/bin/gesso serve", "/bin/true"), encoding="utf-8")
    verified = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True)
    told = [line for line in verified.stderr.splitlines() if "gesso.service" in line]
    assert verified.returncode == 0 and told == [], verified.stderr
    judged = subprocess.run([analyze, "security", "--offline=yes", str(unit)], capture_output=True, text=True)
    if judged.returncode:  # before systemd 250 there is no judging of files
        pytest.skip(judged.stderr)
    level = float(re.findall(r"exposure level for gesso.service: ([0-9.]+)", judged.stdout)[0])
    assert level <= 2.0, judged.stdout


def test_the_unit_lets_a_worker_finish() -> None:
    """It is told to stop alone, and is waited for as long as a worker may take (supervisor, worker)."""
    from gesso.serving.options import WorkerOptions
    from gesso.serving.supervisor import STOP_SECONDS

    text = UNIT.read_text(encoding="utf-8")
    given = int(re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[0])
    longest = WorkerOptions(database="", blobs="").stop_seconds + STOP_SECONDS
    assert "KillMode=mixed" in text and given > longest + 10
    assert int(re.findall(r"stop_grace_period: (\d+)s", COMPOSE.read_text())[0]) > longest + 10


# ---- container -------------------------------------------------------------------------------------------------------


def test_hadolint_has_nothing_against_the_container_file() -> None:
    linted = subprocess.run([tool("hadolint"), "--format", "json", str(CONTAINER)], capture_output=True, text=True)
    assert json.loads(linted.stdout) == [], linted.stdout


def test_the_container_has_no_rights_and_a_check() -> None:
    lines = [line.strip() for line in CONTAINER.read_text(encoding="utf-8").splitlines()]
    assert sum(line.startswith("FROM ") for line in lines) == 2, "what builds is not what runs"
    last = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM ")) :]
    assert "USER 10001:10001" in last and "VOLUME /data" in last and "STOPSIGNAL SIGTERM" in last
    assert 'ENTRYPOINT ["gesso"]' in last and 'CMD ["serve"]' in last
    assert last.index("USER 10001:10001") > max(n for n, line in enumerate(last) if line.startswith("RUN "))


def test_what_the_container_copies_is_there_and_nothing_else_is_sent() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", CONTAINER.read_text(encoding="utf-8"), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignored and {line[1:] for line in ignored if line.startswith("!")} == names
    assert all((ROOT / name).exists() for name in names)


def test_extras_of_the_container_are_there() -> None:
    import tomllib

    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (given,) = re.findall(r"^ARG EXTRAS=(.+)$", CONTAINER.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(given.split(",")) <= known.keys()


def test_the_check_of_the_container_tells_a_server_that_answers_from_one_that_does_not() -> None:
    """Its words, with the port of a server that is there, and of one that is not."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    text = CONTAINER.read_text(encoding="utf-8").replace("\\\n", " ")
    words = json.loads(re.findall(r"HEALTHCHECK .*?CMD (\[.*\])", text)[0])
    assert words[0] == "python" and "'7860'" in words[-1], "the port of a server that is told none"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        check = [sys.executable, *words[1:]]
        port = {**os.environ, "GESSO_SERVE_PORT": str(listening.server_port)}
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        assert subprocess.run(check, capture_output=True, env=port).returncode == 0
        listening.shutdown()
        thread.join()
    assert subprocess.run(check, capture_output=True, env=port).returncode == 1


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may look into; pytest's are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def for_others(as_user: list[str]) -> str:
    """A Python of this version that a user without rights may start. Skips where there is none."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}"):
        words = [*as_user, "/bin/sh", "-c", 'exec "$0" -c "import encodings"', python]
        if subprocess.run(words, capture_output=True, env={}, cwd="/").returncode == 0:
            return python
    pytest.skip("this Python is not for other users")


@pytest.mark.slow
def test_the_steps_of_the_container_work_for_a_user_without_rights(open_folder: Path) -> None:
    """What the container file does, without a container: a wheel of the sources that it copies, and a server that
    runs as somebody who may write to nothing but its data, until SIGTERM."""
    import signal
    import time

    import httpx

    from serving.objects import free_port

    source = open_folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*words, "--wheel-dir", str(open_folder / "wheels"), str(source)], check=True)
    (wheel,) = (open_folder / "wheels").glob("gesso-*.whl")
    installed, data = open_folder / "installed", open_folder / "data"
    shutil.unpack_archive(wheel, installed, "zip")
    data.mkdir()
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = [
            "setpriv",
            "--reuid=10001",
            "--regid=10001",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ]
        shutil.chown(data, 10001, 10001)
    python, path = for_others(as_user), os.pathsep.join([str(installed), str(Path(pytest.__file__).parents[1])])
    port = free_port()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GESSO_HOME", "PYTHONPATH", "HOME")
    } | {
        "PYTHONPATH": path,
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(data),
        "GESSO_HOME": str(data),
        "GESSO_SERVE_HOST": "0.0.0.0",
        "GESSO_SERVE_PORT": str(port),
    }
    gesso = [*as_user, python, "-m", "gesso"]
    refused = subprocess.run([*gesso, "serve"], env=environment, cwd=data, capture_output=True, text=True)
    assert refused.returncode == 2 and "gesso keys add" in refused.stderr
    key = subprocess.run([*gesso, "keys", "add", "me"], env=environment, cwd=data, capture_output=True, text=True)
    running = subprocess.Popen([*gesso, "serve"], env=environment, cwd=data, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None and running.stdout.readline().strip()
        headers = {"Authorization": f"Bearer {key.stdout.strip()}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as asking:
            job = asking.post("/v1/jobs", json={"request": {"prompt": "a red car", "num_steps": 1}}).json()
            end = time.monotonic() + 120
            while (found := asking.get(job["urls"]["self"]).json())["status"] != "succeeded":
                assert time.monotonic() < end and found["status"] in ("queued", "running"), found
                time.sleep(0.1)
    finally:
        running.send_signal(signal.SIGTERM)
        assert running.stdout is not None
        running.stdout.close()
        assert running.wait(60) == 0


# ---- compose ---------------------------------------------------------------------------------------------------------


def test_compose_takes_the_file(tmp_path: Path) -> None:
    """`docker compose config` needs no daemon: it checks the file and fills in the variables."""
    docker = shutil.which("docker")
    words = [docker, "compose"] if docker is not None else []
    if not words or subprocess.run([*words, "version"], capture_output=True).returncode:
        words = [tool("docker-compose")]
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "deploy" / "metrics-key").write_text("gesso_x")
    if words[0] != docker:  # the old program does not know that a file may name its project
        file = tmp_path / "deploy" / "compose.yaml"
        file.write_text(file.read_text(encoding="utf-8").replace("name: gesso\n", "", 1), encoding="utf-8")
    config = [*words, "-f", str(tmp_path / "deploy" / "compose.yaml"), "config", "-q"]
    bare = {name: value for name, value in os.environ.items() if name != "POSTGRES_PASSWORD"}
    without = subprocess.run(config, capture_output=True, text=True, env=bare)
    assert without.returncode and "POSTGRES_PASSWORD" in without.stderr, "a password is never a default"
    taken = subprocess.run(config, capture_output=True, text=True, env=bare | {"POSTGRES_PASSWORD": "x"})
    assert taken.returncode == 0, taken.stderr


def test_services_have_no_more_rights_than_they_need() -> None:
    services = compose()["services"]
    for name, service in services.items():
        assert "no-new-privileges:true" in service["security_opt"] and "privileged" not in service, name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), f"{name}: TLS and the world are for a proxy"
    ours = services["gesso"]
    assert ours["read_only"] is True and ours["cap_drop"] == ["ALL"] and ours["tmpfs"] == ["/tmp"]
    assert ours["volumes"] == ["data:/data"], "all that stays"
    assert ours["depends_on"]["database"]["condition"] == "service_healthy"
    for path in [text.partition(":")[0] for service in services.values() for text in service.get("volumes", ())]:
        assert not path.startswith("./") or (DEPLOY / path).exists(), path


def test_variables_are_settings_of_the_server() -> None:
    names = {row.variable for row in setting_rows()}
    for file in (COMPOSE, CONTAINER, UNIT):
        used = set(re.findall(rf"\b{PREFIX}[A-Z_]+", file.read_text(encoding="utf-8")))
        assert used and used <= names, used - names
    for page in ("deploy.md", "serving.md"):
        used = set(re.findall(rf"\b{PREFIX}[A-Z_]+", (ROOT / "docs" / page).read_text(encoding="utf-8")))
        assert used <= names, used - names


def test_proxies_that_the_compose_file_trusts_are_none_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable is none at all."""
    from gesso.serving.settings import read_settings

    monkeypatch.setenv("GESSO_SERVE_TRUSTED_PROXIES", "")
    monkeypatch.setenv("GESSO_SERVE_ALLOWED_HOSTS", "gesso,localhost")
    settings = read_settings().values
    assert settings.trusted_proxies == () and settings.allowed_hosts == ("gesso", "localhost")
