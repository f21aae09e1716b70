"""Pictures that the model draws itself, so that it keeps what it knows (Ruiz et al. 2022, section 3.2)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gesso.families.loading import load_parts
from gesso.pipelines.text_to_image import TextToImage
from gesso.request.request import TextToImageRequest
from gesso.runtime.engine import Engine
from gesso.scenes.caption import Captioner
from gesso.scenes.scene import Category, SceneSampler
from gesso.scenes.vocabulary import Thing, plural_of
from gesso.tuning.settings import TuningSettings

DRAWN = 100
DRAWN_MINI = 64
# Of a model that says which objects it knows. Two objects and their places are what a small model forgets first.
KNOWN: dict[Category, float] = {
    "single": 1.0,
    "background": 1.0,
    "colours": 1.5,
    "two": 1.5,
    "counting": 1.0,
    "position": 2.0,
    "attribution": 2.0,
}


FEW = 10  # objects


def class_prompts(settings: TuningSettings, model: Path) -> list[str]:
    """A prompt for each picture that the model draws itself, as the settings ask; none where there are others.

    A class has one prompt. A model that says which objects it knows draws those where a trigger is learned, since there
    may be no class among them; a style has no trigger, and other things in another style are no help to it.
    """
    count = settings.class_pictures
    if count == 0:
        return []
    if settings.class_prompt:
        family = load_parts(model, dtype=None, check=False).family
        return [settings.class_prompt] * (count or (DRAWN if family.scheduler else DRAWN_MINI))
    others = settings.reg or settings.preserve or (Path(settings.data).expanduser() / "reg").exists()
    if settings.kind not in ("lora", "full") or not settings.trigger or others:
        return []
    parts = load_parts(model, dtype=None, check=False)
    words = set(settings.trigger.lower().split())
    objects = [name for name, others in parts.family.objects.items() if not words & {name, *others}]
    if len(objects) < 2:
        return []
    return known_prompts(
        objects, count or DRAWN_MINI, settings.seed, lambda text: not parts.tokenizer.unknown_words(text)
    )


def known_prompts(
    objects: Sequence[str], count: int, seed: int, knows: Callable[[str], bool] = lambda text: True
) -> list[str]:
    """Prompts about objects, their colours, numbers and places, each once where there are as many.

    objects: names of two or more. knows: whether the model knows all words of a text
    """
    things = tuple(Thing("", name, plural_of(name), ()) for name in objects)
    # What evaluations hold out is left out here too, but for so few objects that nothing might be left.
    sampler = SceneSampler(things, KNOWN, "train" if len(things) > FEW else "any")
    captioner, rng = Captioner(things), np.random.default_rng((seed, 4))
    prompts: dict[str, None] = {}
    for _ in range(100 * count):
        if len(prompts) == count:
            break
        if knows(text := captioner(sampler(rng), rng)):
            prompts[text] = None
    return list(prompts)


def draw_class_pictures(
    model: Path,
    prompts: Sequence[str],
    folder: Path,
    *,
    device: str,
    seed: int,
    steps: int | None = None,
    on_picture: Callable[[int, int], object] = lambda done, of: None,
) -> int:
    """Draw the pictures of FOLDER that are not there yet, each with its prompt beside it. -> how many were drawn

    Seeds follow from `seed` and the picture's number, so that a call that was cut off goes on. Raises GessoError as
    drawing does.
    """
    names = [folder / f"{number:04}.png" for number in range(len(prompts))]
    missing = [number for number, path in enumerate(names) if not path.with_suffix(".txt").exists()]
    if not missing:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    engine = Engine(device)
    draw = TextToImage(engine, engine.load(model))
    for done, number in enumerate(missing):
        request = TextToImageRequest(prompt=prompts[number], seed=seed * 100_000 + number, num_steps=steps)
        (picture,) = draw(request)
        picture.image.save(names[number])
        # Last: both are there then.
        names[number].with_suffix(".txt").write_text(prompts[number] + "\n", encoding="utf-8")
        on_picture(done + 1, len(missing))
    return len(missing)
