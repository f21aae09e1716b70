"""Numbers, alerts and the dashboard: true, named as they are, and read by the real Prometheus."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from gesso.api.keeping import Housekeeper
from gesso.cli.main import run
from gesso.serving import numbers
from gesso.serving.drawing import Drawing, Encoded
from gesso.serving.jobs import Worker
from gesso.serving.numbers import Numbers, difference, is_flat
from serving.databases import postgres_server
from serving.drawing_server import working
from serving.objects import free_port
from serving.served import CAR, client, context
from serving.test_command import serving

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"
CASES = sorted(RULES.parent.glob("alerts*.test.yml"))
NAME = re.compile(r"\b((?:gesso|process)_[a-z_]+)\b")


def programs(name: str) -> str:
    """Prometheus, or its tool. Skips where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip("Prometheus is not installed")
    return found


def wait_for(condition: Any, seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def samples(text: str) -> dict[str, float]:
    """The numbers of /metrics, by their names with labels."""
    lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def dashboard() -> list[str]:
    """The expressions of the panels, with what Grafana puts in for its variables."""
    board = json.loads((DEPLOY / "grafana" / "gesso.json").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    named = {"$job": ".+", "$instance": ".+", "$__rate_interval": "1m"}
    for name, value in named.items():
        found = [text.replace(name, value) for text in found]
    assert found and "$" not in "".join(found)
    return found


def alerts() -> list[str]:
    """The expressions of the alerts, each on one line."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [" ".join(rule["expr"].split()) for group in groups for rule in group["rules"]]


# ---- the files -------------------------------------------------------------------------------------------------------


def test_prometheus_takes_rules_and_settings_and_the_cases_hold(tmp_path: Path) -> None:
    tool = programs("promtool")
    shutil.copytree(RULES.parent, tmp_path / "rules")
    settings = tmp_path / "rules" / "prometheus.yml"
    text = settings.read_text(encoding="utf-8")
    (tmp_path / "key").write_text("gesso_x")
    assert "/run/secrets/metrics-key" in text
    settings.write_text(text.replace("/run/secrets/metrics-key", str(tmp_path / "key")))
    for words in (["check", "config", settings], ["check", "rules", RULES], ["test", "rules", *CASES]):
        told = subprocess.run([tool, *words], capture_output=True, text=True, cwd=RULES.parent)
        assert told.returncode == 0, told.stdout + told.stderr


def test_every_alert_has_a_case_and_words_for_whoever_is_woken() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    cases = {case["name"] for file in CASES for case in yaml.safe_load(file.read_text())["tests"]}
    assert {rule["alert"] for rule in rules} | {"all is well"} == cases
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket") and set(rule["annotations"]) == {
            "summary",
            "description",
        }


def test_the_dashboard_is_one_that_grafana_shows() -> None:
    board = json.loads((DEPLOY / "grafana" / "gesso.json").read_text(encoding="utf-8"))
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids)) and board["uid"] == "gesso" and board["schemaVersion"] >= 39
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


# ---- the numbers -----------------------------------------------------------------------------------------------------


def test_counts_grow_and_their_differences_are_told() -> None:
    first = Numbers()
    first.add(numbers.STEPS, 4)
    before = first.value(resident=5, reserved=None)
    assert before == {"counts": {"steps": {"": 4}}, "resident": 5}
    first.add(numbers.STEPS)
    first.add(numbers.LOADS, label="m")
    assert difference(first.value(), before) == {("steps", ""): 1, ("loads", "m"): 1}
    assert difference(before, before) == {} and difference(before, {}) == {("steps", ""): 4}


def test_pictures_of_one_colour_are_known() -> None:
    for colour in ("black", "white", (12, 200, 34)):
        assert is_flat(Image.new("RGB", (64, 64), colour))
    image = Image.new("RGB", (64, 64), (10, 10, 10))
    image.putpixel((3, 3), (13, 10, 10))
    assert is_flat(image) and is_flat(image.convert("RGBA"))
    image.putpixel((3, 3), (14, 10, 10))
    assert not is_flat(image) and not is_flat(Image.radial_gradient("L"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, float]]:
    """The numbers of a server after three jobs of two steps, one of which came out in one colour and one failed."""
    home = tmp_path_factory.mktemp("server")
    with context(home, threads=1, device="cpu", batch=2) as made, client(made) as asking:
        keeper = Housekeeper(made.store, made.blobs, made.metrics)
        encoded, failing = Drawing.encoded, {"seed": 3}

        def odd(self: Drawing, part: Any) -> Encoded:
            """Play what goes wrong with pictures."""
            picture = part.run.result()
            if picture.seed == 2:
                picture.image.paste((0, 0, 0), (0, 0, *picture.image.size))
            if picture.seed == failing["seed"]:
                from gesso.runtime.finite import NotFiniteError

                self.active.remove(part)
                raise NotFiniteError("the VAE produced NaN", "vae", None)
            return encoded(self, part)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Drawing, "encoded", odd)
            bodies = [{"request": {"prompt": "a red car", "seed": seed, "num_steps": 2}} for seed in (1, 2, 3)]
            asked = [asking.post("/v1/jobs", json=body).json()["id"] for body in bodies]
            assert asking.post("/v1/jobs", json={"request": {"prompt": "a", "width": 7}}).status_code == 400
            oldest = samples(asking.get("/metrics").text)["gesso_oldest_wait_seconds"]
            assert 0 < oldest < 60
            with working(made):
                wait_for(lambda: all(made.store.get(job).status.is_final for job in asked))
                wait_for(
                    lambda: any(
                        worker.numbers.get("counts", {}).get("pictures", {}).get("") == 2
                        and "nonfinite" in worker.numbers["counts"]
                        for worker in made.store.workers()
                    )
                )
                keeper.count()
                keeper.count()  # counts nothing twice
                yield samples(asking.get("/metrics").text)


def test_the_numbers_are_true(drawn: Mapping[str, float]) -> None:
    for name, value in {
        'gesso_jobs{status="succeeded"}': 2,
        'gesso_jobs{status="failed"}': 1,
        'gesso_jobs{status="queued"}': 0,
        'gesso_jobs_accepted_total{model="gesso-mini"}': 3,
        'gesso_jobs_finished_total{status="failed"}': 1,
        "gesso_oldest_wait_seconds": 0,
        "gesso_job_wait_seconds_count": 3,
        "gesso_worker_steps_total": 6,
        "gesso_worker_pictures_total": 2,
        "gesso_flat_pictures_total": 1,
        'gesso_nonfinite_total{outcome="failed"}': 1,
        'gesso_nonfinite_total{outcome="recomputed"}': 0,
        'gesso_model_loads_total{model="gesso-mini"}': 1,
        'gesso_models_loaded{model="gesso-mini"}': 1,
        'gesso_refusals_total{code="invalid_field"}': 1,
        'gesso_workers{device="cpu"}': 1,
        'gesso_worker_rows{device="cpu"}': 2,
        "gesso_database_up": 1,
        "gesso_worker_restarts": 0,
    }.items():
        assert drawn[name] == value, (name, drawn.get(name))
    # Six steps and three decodings, two pictures a call where there were two.
    rows = {int(name.split('"')[1]): value for name, value in drawn.items() if name.startswith("gesso_network_calls_t")}
    assert set(rows) == {1, 2} and rows[2] >= 2 and rows[1] + 2 * rows[2] >= 9
    assert 0 < drawn["gesso_network_seconds_total"] < 60 and 0 < drawn["gesso_model_load_seconds_total"] < 60
    resident = drawn['gesso_worker_memory_bytes{device="cpu",kind="resident"}']
    assert resident == pytest.approx(drawn["process_resident_memory_bytes"], rel=0.5)  # both are this process here
    assert 10**8 < resident < 2 * 10**10
    assert drawn["gesso_disk_free_bytes"] == pytest.approx(shutil.disk_usage("/tmp").free, rel=0.5)


def test_dashboard_and_alerts_ask_for_numbers_that_there_are(drawn: Mapping[str, float]) -> None:
    there = {name.partition("{")[0] for name in drawn}
    asked = {name for text in (*dashboard(), *alerts()) for name in NAME.findall(text)}
    assert len(asked) > 20 and asked - there == set()
    own = {re.sub("_(bucket|count|sum)$", "", name) for name in there if name.startswith("gesso_")}
    unseen = {name for name in own - {name.removesuffix("_bucket") for name in asked} if not name.endswith("_created")}
    # Beside these a better one is shown.
    assert unseen == {"gesso_start_time_seconds", "gesso_worker_rows"}


def test_a_worker_that_is_older_than_the_server_is_counted_from_now_on(tmp_path: Path) -> None:
    def seen(steps: int, started_at: float, name: str = "w") -> None:
        counted = Numbers()
        counted.add(numbers.STEPS, steps)
        counted.add("of a newer gesso", 3)
        told = counted.value(rows=1)
        made.store.worker_seen(
            Worker(id=name, device="cpu", pid=1, started_at=started_at, seen_at=time.time(), numbers=told)
        )

    with context(tmp_path) as made:
        keeper = Housekeeper(made.store, made.blobs, made.metrics)
        seen(100, time.time() - 1000)
        keeper.count()
        seen(103, time.time() - 1000)
        keeper.count()
        seen(5, time.time() + 10, "new")
        keeper.count()
        made.store.worker_left("new")  # and comes back
        keeper.count()
        seen(7, time.time() + 10, "new")
        keeper.count()
        assert samples(made.metrics.text().decode())["gesso_worker_steps_total"] == 10


def test_without_a_database_the_rest_is_told_at_once(tmp_path: Path) -> None:
    with postgres_server() as postgres, context(tmp_path, database=postgres.url) as made, client(made) as asking:
        assert samples(asking.get("/metrics").text)["gesso_database_up"] == 1
        programs_folder = Path(postgres.url.partition("host=")[2])
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(made.store.database, "engine", _nowhere(programs_folder / "gone"))
            begin = time.monotonic()
            found = samples(made.metrics.text().decode())
        assert found["gesso_database_up"] == 0 and "process_resident_memory_bytes" in found
        assert time.monotonic() - begin < 10 and not any(name.startswith("gesso_jobs{") for name in found)


def _nowhere(folder: Path) -> Any:
    from sqlalchemy import create_engine

    return create_engine(f"postgresql+psycopg://gesso@/postgres?host={folder}")


# ---- Prometheus itself -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prometheus_watches_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real one, with its settings and rules from deploy/, on a `gesso serve` that needs a key for /metrics."""
    program = programs("prometheus")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GESSO_HOME", str(tmp_path))
        capsys.readouterr()
        assert run(["keys", "add", "prometheus", "--scope", "admin"]) == 0
        key = capsys.readouterr().out.strip()
        assert run(["keys", "add", "anna"]) == 0
        user = capsys.readouterr().out.strip()
    (tmp_path / "key").write_text(f"{key}\n")
    with serving(tmp_path) as (asking, _):
        target = f"{asking.base_url.host}:{asking.base_url.port}"
        settings = (RULES.parent / "prometheus.yml").read_text(encoding="utf-8")
        settings = settings.replace("/run/secrets/metrics-key", str(tmp_path / "key")).replace("gesso:7860", target)
        settings = settings.replace("alerts.yml", str(RULES)).replace("15s", "1s")
        (tmp_path / "prometheus.yml").write_text(settings)
        port = free_port()
        words = [f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
        words.append(f"--web.listen-address=127.0.0.1:{port}")
        with open(tmp_path / "prometheus.log", "w", encoding="utf-8") as log:
            watching = subprocess.Popen([program, *words], stdout=log, stderr=log, cwd=tmp_path)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=30) as prometheus:
                watched(prometheus, asking, user)
        finally:
            watching.terminate()
            watching.wait(20)


def watched(prometheus: httpx.Client, asking: httpx.Client, user: str) -> None:
    def query(text: str) -> list[dict[str, Any]]:
        answer = prometheus.get("/query", params={"query": text})
        assert answer.status_code == 200, (text, answer.text)
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def answers() -> bool:
        try:
            return prometheus.get("/status/buildinfo").status_code == 200
        except httpx.TransportError:
            return False

    wait_for(answers)
    wait_for(lambda: [one for one in query('up{job="gesso"}') if one["value"][1] == "1"])
    asking.headers["Authorization"] = f"Bearer {user}"
    assert asking.get("/metrics").status_code == 403
    job = asking.post("/v1/jobs", json=CAR).json()["id"]
    wait_for(lambda: asking.get(f"/v1/jobs/{job}").json()["status"] == "succeeded")
    assert asking.post("/v1/jobs", json={"request": {}}).status_code == 400
    wait_for(lambda: [one for one in query("gesso_worker_steps_total") if float(one["value"][1]) == 8])
    wait_for(lambda: query("rate(gesso_worker_steps_total[1m])"))
    wait_for(lambda: all(query(text) for text in dashboard()))  # a rate needs two looks at what has just begun
    rules = prometheus.get("/rules").json()["data"]["groups"][0]["rules"]
    wait_for(
        lambda: all(rule["health"] == "ok" for rule in prometheus.get("/rules").json()["data"]["groups"][0]["rules"])
    )
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    assert len(rules) == len(alerts()) and not firing
