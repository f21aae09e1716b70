"""Small pictures of large ones, made when they are first asked for and kept in a folder.

They are a cache: the folder may be deleted at any time.
"""

import io
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import BoundedSemaphore

from PIL import Image

from gesso.errors import GessoError
from gesso.files import atomic_file
from gesso.serving.storage import Blobs

SIDES = (128, 256, 512)  # of the longer side, in pixels; a picture that is smaller stays as it is
CONTENT_TYPE = "image/webp"
QUALITY = 82
AT_ONCE = 2  # that are made side by side
_NAME = re.compile(r"([0-9a-f]{64})-(128|256|512)\.webp")
_CHECKED = 500  # digests that `sweep` asks about together


class Thumbnails:
    """Thumbnails below one folder, which is made with the first.

    ab/abcd...-256.webp  of the picture with this SHA-256
    """

    def __init__(self, root: Path, blobs: Blobs) -> None:
        self.root, self.blobs = root, blobs
        self._room = BoundedSemaphore(AT_ONCE)

    def get(self, digest: str, side: int) -> bytes:
        """A picture of the blob store as WebP.  side: one of `SIDES`

        Raises GessoError: missing; damaged for what is no picture.
        """
        path = self.root / digest[:2] / f"{digest}-{side}.webp"
        if not _NAME.fullmatch(path.name):
            raise ValueError(f"digest {digest!r}, side {side}: expected a SHA-256 and one of {SIDES}")
        with suppress(OSError):
            return path.read_bytes()
        with self._room:
            with suppress(OSError):  # made while this waited
                return path.read_bytes()
            made = _thumbnail(self.blobs.read(digest), side)
            with suppress(OSError):  # a full disk: it is shown all the same
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                with atomic_file(path) as handle:
                    handle.write(made)
            return made

    def sweep(self, referenced: Callable[[Iterable[str]], set[str]]) -> int:
        """Delete those of pictures that are gone. -> how many

        referenced  those of these digests that a row names, such as `JobStore.referenced`
        """
        gone = 0
        files = self._files()
        while part := list(islice(files, _CHECKED)):
            named = [(path, match[1]) for path in part if (match := _NAME.fullmatch(path.name))]
            wanted = referenced({digest for _, digest in named}) if named else set()
            for path, digest in named:
                if digest not in wanted:
                    with suppress(OSError):
                        path.unlink()
                        gone += 1
        return gone

    def _files(self) -> Iterator[Path]:
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            with suppress(OSError):
                yield from sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_file())


def _thumbnail(data: bytes, side: int) -> bytes:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (side, side))  # a JPEG is decoded no larger than is needed
            image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
            small = image if image.mode in ("RGB", "RGBA") else image.convert("RGB")
            buffer = io.BytesIO()
            small.save(buffer, "WEBP", quality=QUALITY, method=2)
            return buffer.getvalue()
    except (OSError, ValueError, SyntaxError) as error:
        raise GessoError(f"not a readable picture ({type(error).__name__})", code="damaged") from None
