"""A server that speaks S3, for tests: rclone's, a program that its package on PyPI brings, on a folder."""

import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

ID, SECRET = "GESSOTESTKEY", "a-secret-of-the-tests"
BUCKET = "bucket-of-tests"


def free_port() -> int:
    """A port that nothing listens on now."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class S3Server:
    """A server on a folder, which can be stopped and started again at the same address."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder, self.port = program, folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / BUCKET).mkdir()

    @property
    def files(self) -> list[str]:
        """Names of the objects."""
        bucket = self.folder / BUCKET
        return sorted(path.relative_to(bucket).as_posix() for path in bucket.rglob("*") if path.is_file())

    def start(self) -> None:
        """Let it answer."""
        words = ["serve", "s3", "--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{ID},{SECRET}", str(self.folder)]
        self._process = subprocess.Popen([self.program, *words, "--config", "/dev/null"], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                httpx.get(self.address, timeout=1)
            except httpx.TransportError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError("rclone does not answer")

    def changed(self) -> None:
        """Let it see what was done to its files behind its back."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Take it away."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server that runs, with the environment that leads there. Skips where there is none."""
    pytest.importorskip("obstore", reason="obstore is not installed")
    program = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
    if (
        program is None
        or "s3" not in subprocess.run([program, "serve", "--help"], capture_output=True, text=True).stdout
    ):
        pytest.skip("rclone is not installed, or too old to speak S3")
    with tempfile.TemporaryDirectory() as folder:
        server = S3Server(program, Path(folder))
        server.start()
        for name, value in {
            "AWS_ENDPOINT_URL": server.address,
            "AWS_ACCESS_KEY_ID": ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        try:
            yield server
        finally:
            server.stop()
