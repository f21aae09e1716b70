"""Pictures of the class that the model draws itself, so that it keeps what it knows (Ruiz et al. 2022, section 3.2)."""

from collections.abc import Callable
from pathlib import Path

from gesso.families.loading import load_parts
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.tuning.settings import TuningSettings

DRAWN = 100
DRAWN_MINI = 48


def how_many(settings: TuningSettings, model: Path) -> int:
    """How many pictures of the class the settings ask for."""
    if settings.class_pictures:
        return settings.class_pictures
    family = load_parts(model, dtype=None, check=False).family
    return DRAWN if family.scheduler else DRAWN_MINI


def draw_class_pictures(
    model: Path,
    prompt: str,
    count: int,
    folder: Path,
    *,
    device: str,
    seed: int,
    steps: int | None = None,
    on_picture: Callable[[int, int], object] = lambda done, of: None,
) -> int:
    """Draw the pictures of FOLDER that are not there yet, each with its caption beside it. -> how many were drawn

    Seeds follow from `seed` and the picture's number, so that a call that was cut off goes on. Raises GessoError as
    drawing does.
    """
    names = [folder / f"{number:04}.png" for number in range(count)]
    missing = [number for number, path in enumerate(names) if not path.with_suffix(".txt").exists()]
    if not missing:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(device)
    draw = TextToImage(engine, engine.load(model))
    for done, number in enumerate(missing):
        request = TextToImageRequest(prompt=prompt, seed=seed * 100_000 + number, num_steps=steps)
        (picture,) = draw(request)
        picture.image.save(names[number])
        names[number].with_suffix(".txt").write_text(prompt + "\n", encoding="utf-8")  # last: both are there then
        on_picture(done + 1, len(missing))
    return len(missing)
