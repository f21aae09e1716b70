"""Windows and macOS, as far as they can be tried from Linux: what Python has on POSIX alone stands behind a guard, and
the commands run where it is missing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tiny_models import save_tiny_mini

SOURCE = Path(__file__).parents[1] / "src" / "gesso"

# Modules and names that Windows, or macOS, does not have (Python's documentation: "Availability").
MODULES = {"fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd", "readline", "resource", "spwd", "syslog"}
MODULES |= {"curses", "crypt", "termios", "tty"}
NAMES = {
    "os": {
        *("chown", "chroot", "confstr", "ctermid", "eventfd", "fchmod", "fchown", "fdatasync", "fork", "forkpty"),
        *("fstatvfs", "getegid", "geteuid", "getgid", "getgroups", "getloadavg", "getpgid", "getpgrp", "getpriority"),
        *("getuid", "getxattr", "initgroups", "killpg", "lchown", "listxattr", "lockf", "major", "makedev"),
        *("memfd_create", "minor", "mkfifo", "mknod", "nice", "openpty", "pidfd_open", "pread", "preadv", "pwrite"),
        *("pwritev", "register_at_fork", "removexattr", "sched_getaffinity", "sched_setaffinity", "sched_yield"),
        *("sendfile", "setgid", "setpriority", "setsid", "setuid", "setxattr", "splice", "statvfs", "sync", "sysconf"),
        *("tcgetpgrp", "tcsetpgrp", "ttyname", "uname", "wait3", "wait4", "waitid", "WNOHANG", "WIFEXITED"),
        *("WEXITSTATUS", "WIFSIGNALED", "WTERMSIG", "posix_fadvise", "posix_fallocate", "posix_spawn"),
        *("O_CLOEXEC", "O_DIRECTORY", "O_DSYNC", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "O_PATH", "O_SYNC"),
    },
    "signal": {
        *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP"),
        *("SIGUSR1", "SIGUSR2", "SIGWINCH", "alarm", "getitimer", "pause", "pthread_kill", "pthread_sigmask"),
        *("setitimer", "siginterrupt", "sigpending", "sigtimedwait", "sigwait", "sigwaitinfo"),
    },
    "socket": {"AF_UNIX", "SO_REUSEPORT", "recv_fds", "send_fds"},
    "select": {"epoll", "kqueue", "poll"},
    "time": {
        *("CLOCK_BOOTTIME", "CLOCK_MONOTONIC", "CLOCK_PROCESS_CPUTIME_ID", "CLOCK_REALTIME", "clock_getres"),
        *("clock_gettime", "clock_gettime_ns", "pthread_getcpuclockid", "tzset"),
    },
}
# Functions that their callers do not call on other systems.
ELSEWHERE = {("checkpoints/sandbox.py", "_filter_calls"): 'sys.platform == "linux"'}


def unguarded(text: str) -> list[str]:
    """What a module takes for granted that only POSIX has, as "line: name"."""
    found: list[str] = []

    def visit(node: ast.AST, guarded: bool) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in node.body:
                visit(statement, guarded)
                if isinstance(statement, ast.If) and _asks(statement.test) and _leaves(statement):
                    guarded = True  # if os.name != "posix": return
            return
        if isinstance(node, ast.Try):
            caught = " ".join(ast.unparse(one.type) for one in node.handlers if one.type is not None)
            for statement in node.body:
                visit(statement, guarded or "AttributeError" in caught or "ImportError" in caught)
            for statement in [*node.handlers, *node.orelse, *node.finalbody]:
                visit(statement, guarded)
            return
        if isinstance(node, ast.With):
            spared = any("suppress" in (text := ast.unparse(item)) and "AttributeError" in text for item in node.items)
            guarded = guarded or spared
        if isinstance(node, ast.If | ast.IfExp | ast.BoolOp):
            asked = node.values[0] if isinstance(node, ast.BoolOp) else node.test
            guarded = guarded or _asks(asked)
        if isinstance(node, ast.Import) and not guarded:
            found.extend(f"{node.lineno}: {name.name}" for name in node.names if name.name in MODULES)
        if isinstance(node, ast.ImportFrom) and not guarded:
            if node.module in MODULES:
                found.append(f"{node.lineno}: {node.module}")
            names = {name.name for name in node.names} & NAMES.get(node.module or "", set())
            found.extend(f"{node.lineno}: {node.module}.{name}" for name in names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and not guarded:
            known = node.attr in NAMES.get(node.value.id, set())
            found.extend([f"{node.lineno}: {node.value.id}.{node.attr}"] if known else [])
        for child in ast.iter_child_nodes(node):
            visit(child, guarded)

    visit(ast.parse(text), False)
    return found


def _asks(test: ast.expr) -> bool:
    return any(word in ast.unparse(test) for word in ("hasattr(", "os.name", "sys.platform"))


def _leaves(statement: ast.If) -> bool:
    return isinstance(statement.body[-1], ast.Return | ast.Raise)


def test_what_only_posix_has_stands_behind_a_guard():
    found = {}
    for path in SOURCE.rglob("*.py"):
        name = path.relative_to(SOURCE).as_posix()
        text = path.read_text(encoding="utf-8")
        for file, function in ELSEWHERE:
            if file == name:
                assert f"{ELSEWHERE[file, function]} and {function}()" in text
                text = _without_function(text, function)
        if names := unguarded(text):
            found[name] = names
    assert found == {}


def _without_function(text: str, function: str) -> str:
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if getattr(node, "name", None) != function]
    return ast.unparse(tree)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import fcntl", ["1: fcntl"]),
        ("def f():\n    from pwd import getpwuid", ["2: pwd"]),
        ("try:\n    import resource\nexcept ImportError:\n    resource = None", []),
        ("from os import fork", ["1: os.fork"]),
        ("import os\nos.statvfs('/')", ["2: os.statvfs"]),
        ("if os.name == 'posix':\n    os.setsid()", []),
        ("def f():\n    if os.name != 'posix':\n        return\n    os.setsid()", []),
        ("def f():\n    os.setsid()\n    if os.name != 'posix':\n        return", ["2: os.setsid"]),
        ("x = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else 1", []),
        ("with suppress(AttributeError, OSError):\n    os.sysconf('x')", []),
        ("with suppress(OSError):\n    os.sysconf('x')", ["2: os.sysconf"]),
        ("try:\n    os.sysconf('x')\nexcept OSError:\n    pass", ["2: os.sysconf"]),
        ("sys.platform == 'linux' and os.uname()", []),
        ("signal.signal(signal.SIGHUP, f)", ["1: signal.SIGHUP"]),
    ],
)
def test_a_missing_guard_is_found(text: str, found: list[str]):
    assert unguarded(text) == found


# Everything that Windows lacks is taken away from gesso, but not from the libraries below it, whose own Windows builds
# know what to do. Paths stay those of this system.
STAGE = """
import importlib, json, os, pkgutil, signal, sys, time, types
sys.path.insert(0, sys.argv[2])
from test_systems import MODULES, NAMES
import gesso

SERVER = ("gesso.serving", "gesso.api", "gesso.surfaces", "gesso.server")
for module in pkgutil.walk_packages(gesso.__path__, "gesso."):
    # The server has its extra; the kernels are a library with a C interface, no module.
    if not module.name.startswith((*SERVER, "gesso.__main__", "gesso.runtime._kernels")):
        importlib.import_module(module.name)

class Stage(types.ModuleType):
    def __init__(self, real, without, **instead):
        super().__init__(real.__name__)
        self.__dict__.update(_real=real, _without=without, **instead)
    def __getattr__(self, name):
        if name in self._without:
            raise AttributeError(f"module {self._real.__name__!r} has no attribute {name!r}")
        return getattr(self._real, name)
    def __setattr__(self, name, value):
        setattr(self._real, name, value)

stages = {
    "os": Stage(os, NAMES["os"], name="nt"),
    "signal": Stage(signal, NAMES["signal"]),
    "time": Stage(time, NAMES["time"]),
    "sys": Stage(sys, set(), platform="win32"),
}
for name, module in list(sys.modules.items()):
    if name == "gesso" or name.startswith("gesso."):
        for word, stage in stages.items():
            if getattr(module, word, None) in (os, signal, time, sys):
                setattr(module, word, stage)
for name in MODULES:
    sys.modules[name] = None

from gesso.cli.main import run
codes = {}
for line in json.loads(sys.argv[1]):
    codes[" ".join(line)] = run(line)
print("CODES", json.dumps(codes))
"""


@pytest.mark.parametrize("stdout", ["cp1252", "utf-8", "cp437"])
@pytest.mark.slow
def test_the_commands_run_where_posix_is_missing(stdout: str, tmp_path: Path):
    """On a console with the code pages of Windows, too: what it cannot show is written with escapes."""
    model = save_tiny_mini(tmp_path / "tiny.safetensors")
    torch.save({"state_dict": {"x": torch.zeros(2, 3, 4)}}, tmp_path / "other.ckpt")
    (tmp_path / "others").mkdir()
    lines = [
        ["generate", "a cat ─ кот", "-m", str(model), "--steps", "1", "-o", "a.png", "--seed", "1"],
        ["generate", "a cat", "-m", str(model), "--steps", "1", "-n", "2", "--open"],
        ["replay", "a.png", "-m", str(model)],
        ["metadata", "show", "a.png"],
        ["metadata", "strip", "a.png", "-o", "b.png"],
        ["upscale", "a.png", "-o", "c.png"],
        ["grid", "a cat", "-m", str(model), "-x", "steps=1,2", "-o", "g"],
        ["models", "import", str(model), "--name", "own"],
        ["models", "add-folder", "others"],
        ["models", "list"],
        ["models", "info", str(model)],
        ["config", "set", "generate.steps", "2"],
        ["config"],
        ["prompt", "a (big:1.2) cat"],
        ["samplers"],
        ["presets"],
        ["doctor"],
        ["--help"],
        ["generate", "--help"],
    ]
    if stdout != "utf-8":
        lines = [line for line in lines if line[0] in ("generate", "samplers", "doctor", "config", "presets", "--help")]
    refused = [["models", "import", "other.ckpt"], ["models", "import", str(model), "--name", "con"]]
    environment = {
        "PYTHONIOENCODING": stdout,
        "GESSO_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
        "PATH": "",
        "PYTHONPATH": f"{SOURCE.parent}:{Path(__file__).parent}",
        "HOME": str(tmp_path / "user"),
    }
    words = [sys.executable, "-c", STAGE, json.dumps(lines + refused), str(Path(__file__).parent)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, check=False)
    out, err = done.stdout.decode(stdout), done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, err
    codes = json.loads(out.partition("CODES")[2])
    assert {line: code for line, code in codes.items() if code} == {" ".join(line): 2 for line in refused}, err
    assert "a fault in gesso" not in err and "Traceback" not in err
