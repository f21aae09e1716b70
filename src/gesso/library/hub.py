"""Models by their names on the Hugging Face hub: hf:organisation/name[@revision][:file].

Behind the extra "hub". Fetched are weights as safetensors, configurations and vocabularies, nothing that could be run,
into the cache that the hub's own client keeps, which other tools share. A name is pinned: what it stood for at the
first time is what it stands for later, without asking the network, until it is fetched again with update=True.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gesso.checkpoints.errors import ModelFileError
from gesso.checkpoints.hashing import hash_file
from gesso.errors import GessoError, one_line
from gesso.extras import missing_extra
from gesso.library.entry import HUB, LibraryEntry
from gesso.library.folders import MODEL_INDEX
from gesso.library.importing import check_finite, require_readable
from gesso.library.index import Pin
from gesso.library.library import Library, make_entry, now

log = logging.getLogger(__name__)

OnProgress = Callable[[str, int, int], object]

ALLOWED = (".safetensors", ".json", ".txt")
MAX_FILES = 2_000  # that a repository may list
MAX_SMALL = 32 * 2**20  # bytes of a configuration or a vocabulary
UNUSED_FOLDERS = ("safety_checker", "feature_extractor", "image_encoder", "image_processor")
_NAME = re.compile(r"hf:(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})(?:@(?P<revision>[\w./-]{1,128}))?(?::(?P<file>.{1,400}))?")
# Files of a part's weights: "model", "diffusion_pytorch_model", sharded or not, with a variant such as ".fp16" or not.
_WEIGHTS = re.compile(r"(?:\w+_)?model(?P<variant>\.\w+)?(?:-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True)
class HubName:
    """What "hf:..." says. file: "" stands for the whole model of the repository."""

    repo: str
    revision: str
    file: str

    @classmethod
    def parse(cls, text: str) -> "HubName":
        """Raises GessoError."""
        match = _NAME.fullmatch(text)
        if match is None or ".." in text:
            raise GessoError(
                f"{text[:200]}: expected hf:organisation/name, hf:organisation/name@revision or ...:file",
                code="invalid_name",
            )
        file = match["file"] or ""
        if file and (not file.endswith(".safetensors") or not _is_plain(file)):
            raise GessoError(
                f"{text[:200]}: only .safetensors files and diffusers folders can be fetched from a hub",
                code="unsupported",
            )
        return cls(match["repo"], match["revision"] or "main", file)

    def at(self, commit: str) -> str:
        """The name of exactly these bytes."""
        return f"hf:{self.repo}@{commit}{f':{self.file}' if self.file else ''}"


def fetch(
    library: Library,
    text: str,
    *,
    offline: bool = False,
    update: bool = False,
    name: str | None = None,
    on_progress: OnProgress = lambda what, done, total: None,
) -> LibraryEntry:
    """The model of a hub's name: from the cache where it was fetched before, from the network otherwise.

    offline  touch no network
    update   ask the network what the name stands for today
    Every file is compared with the SHA-256 that the hub states for it, and checked as at an import. Raises GessoError.
    """
    hub_name = HubName.parse(text)
    pin = library.index.pin(hub_name.repo, hub_name.revision, hub_name.file)
    if pin is not None and not update:
        for entry in library.entries():
            if entry.path == pin.path and entry.problem is None:
                return entry
    if offline:
        raise GessoError(f"{text}: not on this machine, and downloads are turned off (offline)", code="offline")
    hub = _client()
    with _explained(text):
        info = hub.HfApi().model_info(hub_name.repo, revision=hub_name.revision, files_metadata=True)
        listed = {str(file.rfilename): file for file in info.siblings or ()}
        if len(listed) > MAX_FILES:
            raise GessoError(
                f"{text}: the repository has {len(listed):,} files, expected at most {MAX_FILES:,}", code="too_large"
            )
        names = choose_files(text, hub_name.file, list(listed))
        commit = str(info.sha)
        paths = _download(hub, hub_name, commit, {name: listed[name] for name in names}, on_progress)
    _compare(paths, listed, on_progress)
    path = paths[MODEL_INDEX].parent if MODEL_INDEX in paths else paths[names[0]]
    entry = make_entry(path, None, HUB, name=name or _short_name(hub_name, path), source=hub_name.at(commit))
    require_readable(entry, path, None)
    check_finite(entry, on_progress)
    library.index.put([entry])
    for file in entry.files:
        library.index.remember(file.path, hash_file(file.path), at=now(), record=True)
    log.info("fetched %r: %s, %d bytes", hub_name.at(commit), entry.kind, entry.nbytes)
    for revision in (hub_name.revision, commit):
        library.index.put_pin(hub_name.repo, revision, hub_name.file, Pin(commit, path))
    return next(known for known in library.index.models() if known.path == path)


def choose_files(text: str, file: str, listed: Sequence[str]) -> list[str]:
    """Which files of a repository a model needs. Raises GessoError where there is none, or where there are several."""
    plain = [name for name in listed if _is_plain(name) and name.lower().endswith(ALLOWED)]
    if file:
        if file not in plain:
            raise GessoError(f"{text}: the repository has no {file}; it has {_some(_weights(plain))}", code="missing")
        return [file]
    if MODEL_INDEX in plain:
        return _folder_files(plain)
    single = [name for name in _weights(plain) if "/" not in name] or _weights(plain)
    if len(single) != 1:
        has = f"{len(single)} .safetensors files: {_some(single)}. Choose one: {text}:FILE" if single else "none"
        raise GessoError(
            f"{text}: a repository without {MODEL_INDEX} must have exactly one .safetensors file; it has {has}",
            code="unsupported",
        )
    return single


def _folder_files(plain: Sequence[str]) -> list[str]:
    """Of a diffusers folder: configurations, and each part's weights once: full precision where there is a choice."""
    chosen = [MODEL_INDEX]
    folders = sorted({name.split("/")[0] for name in plain if name.count("/") == 1} - set(UNUSED_FOLDERS))
    for folder in folders:
        inside = [name for name in plain if name.startswith(f"{folder}/") and name.count("/") == 1]
        variants: dict[str, list[str]] = {}
        for name in inside:
            if (match := _WEIGHTS.fullmatch(name.partition("/")[2])) is not None:
                variants.setdefault(match["variant"] or "", []).append(name)
        best = next((variant for variant in ("", ".fp16") if variant in variants), None)
        chosen += variants.get(best, []) if best is not None else []
        chosen += [name for name in inside if name.endswith((".json", ".txt"))]
    return chosen


def _weights(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.endswith(".safetensors")]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "no .safetensors file") + more


def _is_plain(name: str) -> bool:
    """Whether a name from the network is a plain relative path."""
    parts = PurePosixPath(name).parts
    return bool(parts) and name.isprintable() and "\\" not in name and not name.startswith("/") and ".." not in parts


def _short_name(hub_name: HubName, path: Path) -> str:
    return path.stem if hub_name.file else hub_name.repo


def _download(
    hub: Any, hub_name: HubName, commit: str, files: Mapping[str, Any], on_progress: OnProgress
) -> dict[str, Path]:
    sizes = {name: int(file.size or 0) for name, file in files.items()}
    for name, size in sizes.items():
        if size > MAX_SMALL and not name.endswith(".safetensors"):
            raise GessoError(
                f"{hub_name.repo}: {name} has {size:,} bytes, too large for a configuration", code="too_large"
            )
    total, done, received = sum(sizes.values()), 0, 0

    class Silent(hub.utils.tqdm):  # type: ignore[misc]
        """The client's progress bar without a bar."""

        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **{**settings, "disable": True})

        def update(self, count: float | None = 1) -> None:
            nonlocal received
            received += int(count or 0)
            on_progress("fetching", min(done + received, total), total)

    paths = {}
    for name, size in sizes.items():
        received = 0
        local = hub.hf_hub_download(hub_name.repo, name, revision=commit, tqdm_class=Silent)
        done += size
        on_progress("fetching", done, total)
        paths[name] = Path(local)
    return paths


def _compare(paths: Mapping[str, Path], listed: Mapping[str, Any], on_progress: OnProgress) -> None:
    """The bytes that came against the hashes that the hub states for large files."""
    for name, path in paths.items():
        stated = getattr(listed[name], "lfs", None)
        if stated is None:
            continue
        on_progress("checking", 0, 1)
        if hash_file(path).sha256 != str(stated["sha256"]):
            raise ModelFileError(
                "truncated", path, f"differs from the file that the hub lists as {name}; delete it and try again"
            )


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_extra("a name with hf:", "the hub's client", "hub", error) from None
    return huggingface_hub


@contextmanager
def _explained(text: str) -> Iterator[None]:
    """What the client raises, in a line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise GessoError(
            f"{text}: accept its licence on the hub's page and set a token (HF_TOKEN)", code="hub_access"
        ) from None
    except errors.RepositoryNotFoundError:
        raise GessoError(
            f"{text}: no such repository, or a private one that needs a token (HF_TOKEN)", code="hub_access"
        ) from None
    except errors.RevisionNotFoundError:
        raise GessoError(f"{text}: the repository has no such revision", code="missing") from None
    except errors.EntryNotFoundError as error:
        raise GessoError(f"{text}: a file could not be fetched ({type(error).__name__})", code="hub_failed") from None
    except errors.OfflineModeIsEnabled:
        raise GessoError(
            f"{text}: not on this machine, and downloads are turned off (offline)", code="offline"
        ) from None
    except errors.HFValidationError:
        raise GessoError(f"{text}: the hub does not know this name", code="missing") from None
    # No network, no room, a broken connection, an answer with an error's number.
    except (OSError, getattr(errors, "HTTPError", OSError)) as error:
        reason = one_line(str(error))[:200]
        raise GessoError(f"{text}: cannot be fetched ({type(error).__name__}: {reason})", code="hub_failed") from None
