"""Databases for tests: SQLite in a folder, and a PostgreSQL server of the test's own where the machine has one."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


def postgres_programs() -> Path | None:
    """The folder of initdb and pg_ctl: on the path, or where Debian puts them."""
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return places[-1].parent if places else None


@dataclass(frozen=True)
class PostgresServer:
    """A server that runs.  restart: ends it at once, as a crash would, and starts it again"""

    url: str
    restart: Callable[[], None]


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """An empty server that ends with the block. Skips where there is none."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed")
    with tempfile.TemporaryDirectory() as folder:  # short: the path of a socket has at most 107 bytes
        as_user: list[str] = []
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "nobody")
            as_user = ["setpriv", "--reuid=nobody", "--clear-groups"]
        data = Path(folder) / "data"

        def run(program: str, *words: str) -> None:
            subprocess.run(
                [*as_user, programs / program, *words],
                check=True,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stdin=subprocess.DEVNULL,
            )

        run("initdb", "-D", str(data), "-A", "trust", "-U", "gesso", "-E", "UTF8", "--no-locale", "-N")
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c max_connections=200"

        def start() -> None:
            run("pg_ctl", "-D", str(data), "-w", "-l", f"{folder}/log", "-o", options, "start")

        def restart() -> None:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
            start()

        start()
        try:
            yield PostgresServer(f"postgresql://gesso@/postgres?host={folder}", restart)
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
