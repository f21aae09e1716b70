"""The files that `npm run build` makes of web/, which lie in `assets/` beside this module.

Names in `static/` hold a digest of their content, so browsers keep them for ever. `index.html` names them and is asked
for anew each time; while it has not changed, the answer is that it has not.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
INDEX = "index.html"
FOLDER = "static"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}
PACKED = (".html", ".js", ".css", ".svg", ".json", ".webmanifest")  # what gzip makes smaller


@dataclass(frozen=True)
class PageFile:
    """A file of the page.  packed: by gzip, None where that gains nothing"""

    data: bytes
    content_type: str
    packed: bytes | None = field(repr=False)

    @property
    def etag(self) -> str:
        return f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'


@cache
def page_files() -> Mapping[str, PageFile]:
    """Name -> file: `index.html` and those in `static/`; none where the page was not built. Read once a process."""
    paths = [ASSETS / INDEX, *sorted((ASSETS / FOLDER).glob("*"))]
    known = [path for path in paths if path.is_file() and path.suffix in CONTENT_TYPES]
    return {path.name: _read(path) for path in known}


def _read(path: Path) -> PageFile:
    data = path.read_bytes()
    packed = gzip.compress(data, compresslevel=6, mtime=0) if path.suffix in PACKED else None
    return PageFile(data, CONTENT_TYPES[path.suffix], packed if packed and len(packed) < len(data) else None)
