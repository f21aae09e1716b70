"""Runs one preprocessor, in a process of its own, since the server itself imports no torch.

    python -m gesso.surfaces.a1111.detecting FOLDER

reads FOLDER/asked.json {"name", "size", "parameters", "mask"} and FOLDER/image.png, and writes FOLDER/made.png, or
FOLDER/error.json {"code", "message"} where it cannot be made.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from gesso.errors import GessoError
from gesso.surfaces.a1111.errors import refusal

TIMEOUT = 120.0  # seconds


async def detect(
    name: str, image: Image.Image, mask: Image.Image | None, size: tuple[int, int], parameters: Mapping[str, float]
) -> bytes:
    """The hint that a preprocessor makes, as PNG. Raises HttpError."""
    with tempfile.TemporaryDirectory(prefix="gesso-hint-") as folder:
        place = Path(folder)
        asked = {"name": name, "size": size, "parameters": dict(parameters), "mask": mask is not None}
        (place / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        image.save(place / "image.png")
        if mask is not None:
            mask.save(place / "mask.png")
        words = (sys.executable, "-m", __name__, folder)
        process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.DEVNULL)
        try:
            await asyncio.wait_for(process.wait(), TIMEOUT)
        except TimeoutError:
            raise refusal("the preprocessor took too long", status=503, code="overloaded") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if (place / "made.png").is_file():
            return (place / "made.png").read_bytes()
        if (place / "error.json").is_file():
            said = json.loads((place / "error.json").read_text(encoding="utf-8"))
            code, message = str(said["code"]), str(said["message"])
            raise refusal(message, "controlnet_module", code=code)
        raise refusal("the preprocessor failed; the server's log has it", status=500, code="internal")


def main(folder: Path) -> None:
    """Make the hint. Imports torch."""
    from gesso.hints.registry import PREPROCESSORS, canonical, preprocess
    from gesso.pictures.reading import read_image, read_map, read_mask

    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    try:
        name = canonical(asked["name"])
        read = read_map if PREPROCESSORS[name].takes_map else read_image
        mask = read_mask(folder / "mask.png") if asked["mask"] else None
        made = preprocess(name, read(folder / "image.png"), tuple(asked["size"]), asked["parameters"], mask)
    except GessoError as error:
        (folder / "error.json").write_text(
            json.dumps({"code": error.code, "message": error.one_line}), encoding="utf-8"
        )
        return
    made.save(folder / "making.png")
    (folder / "making.png").rename(folder / "made.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
