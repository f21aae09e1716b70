"""`gesso preprocess NAME FILE...`: make the hint (control image) that a ControlNet takes."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gesso.cli.sizes import parse_size
from gesso.cli.targets import is_folder, put, target
from gesso.errors import GessoError, one_line
from gesso.notices import Notice
from gesso.terminal.json_lines import JsonOption, json_line, notice_values
from gesso.terminal.results import AbsolutePathsOption, OpenOption, open_results, path_values, shown
from gesso.terminal.words import in_options

if TYPE_CHECKING:
    from PIL import Image

POSE = "openpose"  # the one that reads keypoints in place of a picture
POSE_HELP = "Draws the skeletons of OpenPose keypoints from a JSON file."
MAX_POSE_BYTES = 4_000_000


def command(
    preprocessor: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Preprocessor: canny, softedge, lineart, openpose, ...; --list shows all."),
    ] = None,
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="Pictures; for openpose, JSON files of keypoints.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Output file (PNG; for openpose also JSON) or folder.",
            show_default="FILE-NAME.png",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="Size of the hint.", show_default="the picture's"),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="Mask for inpaint; white marks the hole.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=NUMBER", help="Set a parameter of the preprocessor, such as low=50 (repeatable)."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Overwrite an existing file.")] = False,
    open_after: OpenOption = False,
    absolute_paths: AbsolutePathsOption = False,
    as_json: JsonOption = False,
    listed: Annotated[
        bool, typer.Option("--list", help="List the preprocessors and their parameters, then exit.")
    ] = False,
) -> None:
    """Make ControlNet hints (control images) from pictures and print their paths. Needs no model.

    Examples:
        gesso preprocess --list
        gesso preprocess canny photo.png
        gesso preprocess canny photo.png --set low=50 --set high=150
        gesso preprocess softedge a.png b.png --size 512x768 -o hints/
        gesso preprocess openpose pose.json -o pose.png
    """
    if listed:
        print(json_line(_table()) if as_json else "\n".join(describe()))
        return
    if preprocessor is None or not files:
        raise GessoError(
            "NAME and FILE are required. Try: gesso preprocess canny picture.png, or gesso preprocess --list",
            code="usage",
        )
    name = preprocessor.lower()
    if name == POSE and (mask is not None or settings):
        raise GessoError(f"{POSE} takes neither --mask nor --set", code="usage")
    hint_size = parse_size(size, "--size") if size is not None else None
    folder = is_folder(output, len(files), (".png", ".json") if name == POSE else (".png",))
    paths = []
    for file in files:
        notices: tuple[Notice, ...] = ()
        path = target(f"{file.stem}-{name}.png", output, folder=folder)
        if name == POSE:
            data = _pose(file, hint_size, as_json=path.suffix.lower() == ".json")
        else:
            image, notices = _hint(name, file, hint_size, mask, settings or [])
            data = _png(image)
        put(path, data, overwrite=overwrite)
        paths.append(path)
        for notice in notices:
            _note(f"note: {notice}")
        if as_json:
            values = path_values(path, absolute=absolute_paths) | {"source": str(file), "preprocessor": name}
            print(json_line(values | notice_values(notices)), flush=True)
        else:
            print(shown(path, absolute=absolute_paths), flush=True)
    if open_after:
        open_results(paths, _note)


def _note(text: str) -> None:
    print(in_options(one_line(text)), file=sys.stderr)


def _hint(
    name: str, file: Path, size: tuple[int, int] | None, mask: Path | None, settings: list[str]
) -> "tuple[Image.Image, tuple[Notice, ...]]":
    from gesso.hints.registry import PREPROCESSORS, canonical, preprocess
    from gesso.pictures.reading import notices_of, read_image, read_map, read_mask

    name, parameters = canonical(name), parse_parameters(settings)
    read = read_map if PREPROCESSORS[name].takes_map else read_image
    image = read(file)
    made = preprocess(name, image, size, parameters, None if mask is None else read_mask(mask))
    return made, tuple(notices_of(image))


def _pose(file: Path, size: tuple[int, int] | None, *, as_json: bool) -> bytes:
    """Keypoints as a picture, or as JSON again: 18 points a body, in pixels of the canvas of that size."""
    from gesso.hints.poses import read_poses, resized, write_poses
    from gesso.hints.skeleton import draw_poses
    from gesso.pictures.picture_file import reason_of

    try:
        if file.stat().st_size > MAX_POSE_BYTES:
            raise GessoError(
                f"{file}: {file.stat().st_size} bytes, expected at most {MAX_POSE_BYTES}", code="too_large"
            )
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise GessoError(f"{file}: no such file", code="missing", data={"path": str(file)}) from None
    except (OSError, ValueError) as error:
        why = reason_of(error)
        raise GessoError(f"{file}: cannot be read ({why})", code="unreadable", data={"path": str(file)}) from error
    try:
        poses = read_poses(text, size)
    except GessoError as error:
        raise GessoError(f"{file}: {error.message}", code=error.code) from error
    if as_json:
        return write_poses(resized(poses, size or (poses.width, poses.height))).encode()
    return _png(draw_poses(poses, size))


def _png(image: "Image.Image") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def describe() -> list[str]:
    """Lines that describe each preprocessor and its parameters."""
    from gesso.hints.registry import PREPROCESSORS

    lines = []
    for name, row in PREPROCESSORS.items():
        lines.append(f"{name:14}{row.help}")
        for key, parameter in row.parameters.items():
            values = f"{parameter.default:g}, {parameter.low:g} to {parameter.high:g}"
            lines.append(f"  {key:12}{parameter.help} ({values})")
    lines.append(f"{POSE:14}{POSE_HELP}")
    return lines


def _table() -> list[dict[str, Any]]:
    """The preprocessors and their parameters, for programs."""
    from gesso.hints.registry import PREPROCESSORS

    table: list[dict[str, Any]] = [
        {
            "name": name,
            "help": row.help,
            "parameters": {
                key: {"help": one.help, "default": one.default, "low": one.low, "high": one.high}
                for key, one in row.parameters.items()
            },
        }
        for name, row in PREPROCESSORS.items()
    ]
    return [*table, {"name": POSE, "help": POSE_HELP, "parameters": {}}]


def parse_parameters(settings: list[str]) -> dict[str, float]:
    """NAME=VALUE pairs as numbers. Raises GessoError."""
    parameters = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        try:
            parameters[name.strip()] = float(text)
        except ValueError:
            raise GessoError(
                f"--set {setting[:60]}: expected NAME=NUMBER, such as low=50", code="invalid_value"
            ) from None
    return parameters
