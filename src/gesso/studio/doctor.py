"""Whether gesso works on this machine: versions, optional packages, machine, folders, and a picture of a few steps.

Nothing that is broken ends the others: each check stands alone, and those that need torch run in another process.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from gesso import __version__
from gesso.errors import GessoError
from gesso.extras import import_extra, install_command
from gesso.studio.check import Check, guarded
from gesso.studio.home import library_folder, open_library, styles_file

TIMEOUT = 60.0  # seconds of the checks that need torch; on a slow disk torch alone takes ten
LITTLE_DISK = 2 * 2**30  # bytes, below which a model may not fit


@dataclass(frozen=True, kw_only=True)
class Extra:
    """An optional package.  name: of the extra of gesso; module: what is imported; about: what it is for"""

    name: str
    module: str
    package: str
    about: str


EXTRAS = (
    Extra(name="hints", module="cv2", package="opencv-python-headless", about="control images (gesso preprocess)"),
    Extra(
        name="hub", module="huggingface_hub", package="huggingface_hub", about="models by name (hf:organisation/name)"
    ),
    Extra(name="gguf", module="gguf", package="gguf", about="models in GGUF files"),
    Extra(name="comfyui", module="yaml", package="pyyaml", about="ComfyUI's extra_model_paths.yaml, YAML wildcards"),
    Extra(name="serve", module="fastapi", package="fastapi", about="the HTTP API (gesso serve)"),
    Extra(name="postgres", module="psycopg", package="psycopg", about="a queue in PostgreSQL (gesso serve)"),
    Extra(name="objects", module="obstore", package="obstore", about="pictures in object storage (gesso serve)"),
    Extra(name="otel", module="opentelemetry", package="opentelemetry-sdk", about="traces (gesso serve)"),
    Extra(
        name="optimizers",
        module="pytorch_optimizer",
        package="pytorch-optimizer",
        about="further optimisers (gesso train lora --optimizer prodigy)",
    ),
    Extra(name="eight-bit", module="bitsandbytes", package="bitsandbytes", about="--optimizer adamw8bit"),
    Extra(name="parquet", module="pyarrow", package="pyarrow", about="pictures in Parquet tables (gesso train lora)"),
    Extra(name="tensorboard", module="tensorboard", package="tensorboard", about="a training's log (--tensorboard)"),
    Extra(name="ray", module="ray", package="ray", about="trainings on a cluster (gesso train ray)"),
    Extra(name="sscd", module="onnxruntime", package="onnxruntime", about="SSCD for the check for copies (--sscd)"),
    Extra(name="train", module="emoji", package="emoji", about="making tables of objects for training"),
    Extra(name="world", module="resvg_py", package="resvg-py", about="drawing objects for training from vectors"),
)
CORE = ("numpy", "pillow", "safetensors", "tokenizers", "msgspec", "typer", "rich", "tomlkit")
# Variables of others that change what gesso does. The values of secret ones are not shown.
ENVIRONMENT: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1 switches downloads off",
    "TRANSFORMERS_OFFLINE": "1 switches downloads off",
    "HF_HOME": "where the hub client keeps downloads and the token",
    "HF_ENDPOINT": "another hub",
    "HF_TOKEN": "token for the hub",
    "CUDA_VISIBLE_DEVICES": "the GPUs that torch sees",
    "PYTORCH_CUDA_ALLOC_CONF": "how torch takes GPU memory",
    "OMP_NUM_THREADS": "CPU threads of torch",
    "MKL_NUM_THREADS": "CPU threads of torch",
    "XDG_DATA_HOME": "where the library is, without GESSO_HOME",
    "XDG_CONFIG_HOME": "where the config file is, without GESSO_HOME",
    "NO_COLOR": "no colours on the terminal",
}
_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD")

RunMachine = Callable[[], Iterator[Check]]


def doctor(run_machine: RunMachine | None = None) -> Iterator[Check]:
    """All checks that an application needs, each as soon as it is made. Raises nothing.

    run_machine  the checks that need torch; None: in another process
    """
    yield from guarded("versions", "gesso", _versions)
    machine = list((run_machine or machine_in_a_process)())
    yield from (one for one in machine if one.section == "versions")
    for extra in EXTRAS:
        yield from guarded("packages", extra.name, partial(_package, extra))
    yield from (one for one in machine if one.section == "machine")
    yield from guarded("folders", "library", _library)
    yield from guarded("folders", "styles", _styles)
    yield from guarded("folders", "current folder", _here)
    yield from (one for one in machine if one.section not in ("versions", "machine"))


def _versions() -> Iterator[Check]:
    place = Path(__file__).parents[1]
    yield Check(
        section="versions",
        name="gesso",
        text=f"{__version__} in {place}",
        data={"version": __version__, "path": str(place)},
    )
    yield Check(
        section="versions",
        name="Python",
        text=f"{platform.python_version()}, {sys.executable}",
        data={"version": platform.python_version(), "path": sys.executable},
    )
    system = platform.platform()
    yield Check(section="versions", name="system", text=system, data={"system": system})
    versions = {name: _version(name) for name in CORE}
    missing = [name for name, version in versions.items() if version is None]
    yield Check(
        section="versions",
        name="libraries",
        status="failed" if missing else "ok",
        text=", ".join(f"{name} {version or 'missing'}" for name, version in versions.items()),
        advice=f"pip install {' '.join(missing)}" if missing else "",
        data=versions,
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _package(extra: Extra) -> Check:
    install = install_command(extra.name)
    data = {"package": extra.package, "extra": extra.name, "version": None}
    try:
        import_extra(extra.module)
    except ModuleNotFoundError as error:
        if error.name == extra.module:
            text = f"not installed; for {extra.about}"
            return Check(section="packages", name=extra.name, status="note", text=text, advice=install, data=data)
        raise
    except Exception as error:
        text = f"cannot be imported ({type(error).__name__}: {error}); for {extra.about}"[:300]
        advice = f"{install} --force-reinstall"
        return Check(section="packages", name=extra.name, status="note", text=text, advice=advice, data=data)
    version = _version(extra.package)
    text = f"{extra.package} {version or 'of unknown version'}; for {extra.about}"
    return Check(section="packages", name=extra.name, text=text, data=data | {"version": version})


# ---- folders ---------------------------------------------------------------------------------------------------------


def _library() -> Iterator[Check]:
    root = library_folder()
    there = root.is_dir()
    first = next(path for path in (root, *root.parents) if os.path.lexists(path))  # the nearest that is there
    problem = "" if first.is_dir() else f"{first} is not a folder"
    nearest = next((folder for folder in (root, *root.parents) if folder.is_dir()), None)
    if not problem and (nearest is None or not os.access(nearest, os.W_OK)):
        problem = f"cannot be written{'' if there else f': {nearest} is read-only'}"
    free = None if nearest is None else shutil.disk_usage(nearest).free
    text = f"{root} ({problem or ('writable' if there else 'does not exist yet, is made when needed')})"
    if free is not None:
        text += f", {free / 2**30:.1f} GiB free"
    advice = "Correct its permissions, or choose another folder: GESSO_HOME=FOLDER" if problem else ""
    little = free is not None and free < LITTLE_DISK
    yield Check(
        section="folders",
        name="library",
        status="failed" if not first.is_dir() else "note" if problem or little else "ok",
        text=text,
        advice=advice or ("Little room for models" if little else ""),
        data={"path": str(root), "exists": there, "writable": not problem, "free": free},
    )
    library = open_library()
    for folder in library.folders():
        exists = folder.path.is_dir()
        readable = exists and os.access(folder.path, os.R_OK | os.X_OK)
        state = "readable" if readable else "cannot be read" if exists else "not found"
        yield Check(
            section="folders",
            name="added folder",
            status="ok" if readable else "note",
            text=f"{folder.path} ({folder.layout}, {state})",
            advice="" if exists else f"gesso models remove '{folder.path}' unregisters it",
            data={"path": str(folder.path), "layout": folder.layout, "exists": exists, "readable": readable},
        )
    listing = library.listing()
    bad = [entry.name for entry in listing.entries if entry.problem]
    yield Check(
        section="folders",
        name="models",
        status="note" if bad or listing.notes else "ok",
        text=f"{_counted(len(listing.entries), 'model')}{f', {len(bad)} of them unusable: {_few(bad)}' if bad else ''}"
        + "".join(f"; {note}" for note in listing.notes),
        advice="`gesso models list` says what is wrong" if bad else "",
        data={"models": len(listing.entries), "unusable": bad, "notes": list(listing.notes)},
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _styles() -> Check:
    path = styles_file()
    if not os.path.lexists(path):
        text = f"{path} (does not exist; --style needs one)"
        return Check(section="folders", name="styles", text=text, data={"path": str(path), "exists": False})
    from gesso.frontends.front_end import read_styles

    try:
        count = len(read_styles(path))
    except GessoError as error:
        data = {"path": str(path), "exists": True}
        return Check(section="folders", name="styles", status="note", text=error.one_line, data=data)
    data = {"path": str(path), "exists": True, "styles": count}
    return Check(section="folders", name="styles", text=f"{path} ({_counted(count, 'style')})", data=data)


def _here() -> Check:
    path = Path.cwd()
    writable, free = os.access(path, os.W_OK), shutil.disk_usage(path).free
    return Check(
        section="folders",
        name="current folder",
        status="ok" if writable else "note",
        text=f"{path} ({'writable' if writable else 'cannot be written'}), {free / 2**30:.1f} GiB free",
        advice="" if writable else "Pictures go into outputs/ here; choose another place with --output",
        data={"path": str(path), "writable": writable, "free": free},
    )


# ---- environment -----------------------------------------------------------------------------------------------------


def environment(own: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> Iterator[Check]:
    """The variables that are set and change what gesso does.  own: those of the caller, with what they do"""
    for name, about in {**own, **ENVIRONMENT}.items():
        if (value := environ.get(name)) is None:
            continue
        shown = "(set, not shown)" if any(word in name for word in _SECRET) else value[:200]
        data = {"name": name, "value": shown}
        yield Check(section="settings", name=name, text=f"{shown}; {about}", data=data)


# ---- torch, in another process ---------------------------------------------------------------------------------------


def machine_in_a_process(command: Sequence[str] | None = None, timeout: float = TIMEOUT) -> Iterator[Check]:
    """The checks of `gesso.studio.machine`; if its process fails, hangs or crashes, those that were made before.

    command  that prints them
    """
    words = [sys.executable, "-P", "-m", "gesso.studio.machine"] if command is None else list(command)
    source = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            words, capture_output=True, timeout=timeout, check=False, env={**os.environ, "PYTHONPATH": path}
        )
        out, err, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        out, err, code = error.stdout or b"", error.stderr or b"", None
    except OSError as error:
        yield Check(section="versions", name="torch", status="failed", text=f"no process could be started ({error})")
        return
    section = "versions"  # what the process was about when it ended
    for line in out.decode(errors="replace").splitlines():
        try:
            one = Check(**json.loads(line))
        except (ValueError, TypeError):  # something else that a library printed
            continue
        section = "machine"
        yield one
    if code == 0:
        return
    last = err.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    if code is None:
        text = f"no answer after {timeout:.0f} s"
        advice = "Is the machine very busy, the disk very slow, or a driver stuck?"
    elif code < 0:
        text, advice = f"torch crashed (signal {-code}): {last[0]}", "Reinstall torch for this machine"
    else:
        text, advice = f"ended with code {code}: {last[0]}", "Reinstall torch: pip install --force-reinstall torch"
    yield Check(section=section, name="torch", status="failed", text=text[:300], advice=advice, data={"code": code})
