"""The house itself: what the package may import, what importing it costs, what its errors look like."""

import ast
import inspect
import json
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import gesso
from gesso import GessoError

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gesso"

CORE = {"gesso", "torch", "numpy", "safetensors", "tokenizers", "PIL", "msgspec"} | sys.stdlib_module_names
# The edges may have more.
MORE = {
    "checkpoints": {"gguf"},
    "cli": {"typer", "click", "rich", "tomlkit"},
    "terminal": {"typer", "click", "rich"},
    "hints": {"cv2"},
    "library": {"huggingface_hub"},
    "serving": {"sqlalchemy", "alembic", "pydantic", "pydantic_settings", "opentelemetry", "obstore"},
    "api": {"sqlalchemy", "fastapi", "starlette", "uvicorn", "httptools", "prometheus_client"},
    "surfaces": {"sqlalchemy", "fastapi", "starlette", "uvicorn"},
    "server": {"sqlalchemy", "fastapi", "starlette", "uvicorn"},
    "strict_yaml.py": {"yaml"},
    "tuning": {"pyarrow", "onnxruntime"},
}


def imports_of(path: Path) -> set[str]:
    """Top-level names of all that a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_the_package_imports_what_it_declares_and_nothing_else():
    strangers = {}
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0]
        if extra := imports_of(path) - CORE - MORE.get(room, set()):
            strangers[str(path.relative_to(SOURCE))] = sorted(extra)
    assert strangers == {}


def run_python(code: str) -> str:
    """Standard output of `code` in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("module", ["gesso", "gesso.errors", "gesso.events", "gesso.registry"])
def test_importing_is_light(module):
    heavy = {"torch", "numpy", "PIL", "tokenizers", "safetensors", "typer", "rich", "tomlkit"}
    loaded = json.loads(run_python(f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"))
    assert heavy.isdisjoint(loaded)


def test_every_public_name_is_there():
    assert sorted(gesso.__all__) == sorted([*gesso._PUBLIC, "__version__"])
    for name in gesso.__all__:
        assert getattr(gesso, name) is not None
    assert dir(gesso) == sorted(gesso.__all__)
    with pytest.raises(AttributeError, match="no attribute 'unheard_of'"):
        gesso.unheard_of  # noqa: B018


def test_type_checkers_see_the_same_names_from_the_same_modules():
    """What `__getattr__` gives at run time is written a second time for mypy and editors."""
    tree = ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    typed = {name.name: line.module for line in block.body for name in line.names}  # all are "from X import Y"
    assert typed == gesso._PUBLIC
    assert (SOURCE / "py.typed").is_file()


def test_every_public_name_is_documented_where_it_is_defined():
    for name in gesso._PUBLIC:
        value = getattr(gesso, name)
        if isinstance(value, type) or inspect.isfunction(value):
            assert value.__module__ == gesso._PUBLIC[name], name
            own = value.__doc__ or ""
            assert own.strip() and not own.startswith(f"{name}("), name  # a dataclass without one gets its signature


# ---- logging ---------------------------------------------------------------------------------------------------------


# Beside the command line: a process of its own, and what sets up the log of both.
PROGRAMS = (SOURCE / "serving" / "worker.py", SOURCE / "serving" / "logs.py")


def test_every_logger_is_its_modules_and_nothing_sets_logging_up():
    """One logger a module, by its own name. Handlers and levels are the application's; the command line is one."""
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        loggers = re.findall(r"^(.*getLogger\(.*?)(?:  #.*)?$", text, re.MULTILINE)
        if path == SOURCE / "__init__.py":
            assert loggers == ["logging.getLogger(__name__).addHandler(logging.NullHandler())"]
        elif path.relative_to(SOURCE).parts[0] not in ("cli", "terminal") and path not in PROGRAMS:
            assert loggers in ([], ["log = logging.getLogger(__name__)"]), path
            assert not re.search(r"basicConfig|addHandler|setLevel|dictConfig|warnings\.warn\(", text), path


def test_importing_gesso_leaves_logging_alone():
    code = """
import logging
before = logging.getLogger().handlers[:], logging.getLogger().level
import gesso
handlers = logging.getLogger("gesso").handlers
assert [type(one).__name__ for one in handlers] == ["NullHandler"], handlers
assert (logging.getLogger().handlers[:], logging.getLogger().level) == before
assert logging.getLogger("gesso").level == logging.NOTSET
"""
    assert run_python(code) == ""


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == gesso.__version__
    assert f"## {gesso.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_an_error_is_one_harmless_line():
    error = GessoError("evil\x1b[31m\n  name.safetensors: no such file.\tTry another: ünïcode stays")
    assert str(error) == error.message
    assert error.one_line == "evil\\x1b[31m name.safetensors: no such file. Try another: ünïcode stays"


def test_data_files_match_a_packaging_pattern():
    """What lies in the package but matches no pattern would be missing from the wheel."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    patterns = setuptools["package-data"]["*"]
    tracked = subprocess.run(["git", "ls-files", "src/gesso"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    files = [Path(line) for line in tracked.stdout.splitlines()]
    left_out = [str(p) for p in files if p.suffix != ".py" and not any(p.match(pattern) for pattern in patterns)]
    assert left_out == []


def test_tracked_text_names_no_machine():
    """Paths of one machine help nobody else."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"(?<![\w.~/-])/(?:home|root|Users)/\w")
    found = []
    for name in tracked.stdout.split("\0"):
        path = ROOT / name
        if (
            not path.is_file()
            or path.suffix in {".png", ".webp", ".gz", ".safetensors", ".npz"}
            or path == Path(__file__)
        ):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name}:{number}: {line.strip()[:100]}")
    assert found == []


# ---- rooms and circles -----------------------------------------------------------------------------------------------

LARGEST_ROOM = 0.12  # of the lines


def modules_imported(path: Path, known: set[str]) -> set[str]:
    """The modules of gesso that a file imports, inside functions and for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(parts & known or {node.module})
    return names & known


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            at = stack.index(name)
            group, stack[at:] = stack[at:], []
            if len(group) > 1 or name in graph[name]:
                groups.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return groups


def test_no_modules_import_each_other_in_a_circle():
    """Not at run time, and not in functions or for type checkers either: those that do belong in one file or three."""
    paths = {
        ".".join(("gesso", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }
    graph = {name: modules_imported(path, set(paths)) for name, path in paths.items()}
    del graph["gesso"]  # names the public API for type checkers
    assert circles({name: others - {"gesso"} for name, others in graph.items()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"e"}}) == [["a", "b", "c"], ["e"]]


def test_no_room_is_too_large():
    """A room that holds several subjects grows past this long before anybody notices."""
    lines: dict[str, int] = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).parts
        room = "/".join(parts[:2]) if parts[0] == "serving" and len(parts) > 2 else parts[0]  # http, openai, a1111, ...
        lines[room] = lines.get(room, 0) + len(path.read_text(encoding="utf-8").splitlines())
    largest = max(lines, key=lambda room: lines[room])
    assert lines[largest] / sum(lines.values()) < LARGEST_ROOM, largest


# ---- the offline guard of conftest.py --------------------------------------------------------------------------------


def test_the_network_is_out_of_reach():
    with socket.socket() as sock, pytest.raises(pytest.fail.Exception, match="reached for the network"):
        sock.connect(("192.0.2.1", 80))  # an address reserved for documentation
    with (
        socket.socket(type=socket.SOCK_DGRAM) as sock,
        pytest.raises(pytest.fail.Exception, match="reached for the network"),
    ):
        sock.sendto(b"", ("192.0.2.1", 53))
    with pytest.raises(pytest.fail.Exception, match="reached for the network"):
        socket.getaddrinfo("example.org", 80)


def test_loopback_stays_open():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.sendall(b"ok")
        connection, _ = server.accept()
        with connection:
            assert connection.recv(2) == b"ok"
