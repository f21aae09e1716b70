"""ComfyUI's extra_model_paths.yaml: sections with a base_path and, for each kind of model, one or several folders.

    a111:
        base_path: path/to/stable-diffusion-webui/
        checkpoints: models/Stable-diffusion
        loras: |
            models/Lora
            models/LyCORIS

The file is read as data: plain tags, no anchors, bounded in size, depth and number of values.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gesso import strict_yaml
from gesso.errors import GessoError
from gesso.extras import missing_words
from gesso.library.places import COMFYUI_TYPES, Place

MAX_BYTES = 64 * 1024
MAX_EVENTS = 5_000
MAX_DEPTH = 4
MAX_FOLDERS = 500
_NO_FOLDERS = ("base_path", "is_default", "custom_nodes", "configs")


@dataclass(frozen=True)
class ExtraPlace:
    """default: the section says that it comes before the other folders."""

    place: Place
    default: bool


def read_extra_paths(path: Path) -> list[ExtraPlace]:
    """The folders that the file names, whether they are there or not; kinds that gesso has no use for are left out.

    Raises GessoError for a file that is not of that form, and where PyYAML is not installed.
    """
    sections = _parse(path)
    places: list[ExtraPlace] = []
    for name, section in sections.items():
        if section is None:  # a section whose lines are all comments
            continue
        if not isinstance(section, dict):
            raise GessoError(
                f"{path}: {name} is not a section with a base_path and folders",
                code="damaged",
                data={"path": str(path)},
            )
        base = _base(path, section.get("base_path"))
        default = section.get("is_default") is True
        for key, value in section.items():
            if key in _NO_FOLDERS or value is None:
                continue
            if not isinstance(key, str) or not isinstance(value, str):
                raise GessoError(
                    f"{path}: {name}: {key} is {type(value).__name__}, expected the name of a folder",
                    code="damaged",
                    data={"path": str(path)},
                )
            lines = [line.strip() for line in value.splitlines() if line.strip()]
            if len(places) + len(lines) > MAX_FOLDERS:
                raise GessoError(
                    f"{path}: names more than {MAX_FOLDERS} folders", code="too_large", data={"path": str(path)}
                )
            if "\0" in value:
                raise GessoError(f"{path}: {name}: {key} has a NUL character", code="damaged", data={"path": str(path)})
            if (kind := COMFYUI_TYPES.get(key)) is not None:
                places += [ExtraPlace(Place(_join(base, line), kind), default) for line in lines]
    return places


def _base(path: Path, base: Any) -> Path:
    if base is None:
        return path.parent.absolute()
    if not isinstance(base, str) or "\0" in base:
        raise GessoError(
            f"{path}: base_path is {type(base).__name__}, expected the name of a folder",
            code="damaged",
            data={"path": str(path)},
        )
    return _join(path.parent.absolute(), base.strip())


def _join(base: Path, name: str) -> Path:
    """ComfyUI lets ~ and $VARIABLE stand in the file."""
    return Path(os.path.normpath(base / os.path.expandvars(os.path.expanduser(name))))


def _parse(path: Path) -> dict[Any, Any]:
    details = {"path": str(path)}
    try:
        with open(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise GessoError(
                f"{path}: is larger than {MAX_BYTES:,} bytes, so it is not a list of folders",
                code="too_large",
                data=details,
            )
        sections = strict_yaml.loads(data.decode("utf-8-sig"), max_depth=MAX_DEPTH, max_values=MAX_EVENTS)
    except ImportError as error:
        needs = missing_words(f"{path}: reading it", "PyYAML", "comfyui", error)
        advice = "; or add its folders one by one with `layout=plain`"
        raise GessoError(needs + advice, code="missing_extra", data=details) from None
    except FileNotFoundError:
        raise GessoError(f"{path}: no such file", code="missing", data=details) from None
    except OSError as error:
        raise GessoError(f"{path}: cannot be read ({error.strerror})", code="unreadable", data=details) from None
    except UnicodeDecodeError:
        raise GessoError(f"{path}: is not valid YAML for a list of folders", code="damaged", data=details) from None
    except strict_yaml.YamlError as error:
        raise GessoError(
            f"{path}: {error}; expected a list of folders",
            code="too_large" if error.too_large else "damaged",
            data=details,
        ) from None
    if sections is None:
        return {}
    if not isinstance(sections, dict):
        raise GessoError(f"{path}: is not a table of sections", code="damaged", data=details)
    return sections
