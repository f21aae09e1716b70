"""Own pictures into gesso-mini, as a user would do it, and a judge that no training has seen.

    python benchmarks/own_pictures.py judge --folder /tmp/own
    python benchmarks/own_pictures.py lora dreambooth zorb style layouts table --folder /tmp/own

Ten pictures of a thing that gesso-mini has no word for, and twenty in a style that does not come with it, are composed
into folders as a user would have them: PNGs with a caption beside each. Everything is trained and drawn by the command
line in processes of their own. The judge of the thing is gesso's detector with more objects in its table, the judge of
the style a classifier; both are trained on composed pictures and never see a drawn one. What it says of the untrained
model's pictures of the same prompts stands beside each figure. Needs the Noto Color Emoji font.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from gesso.mini.judging.composition import Prompt, judge, prompt_set, wilson
from gesso.mini.judging.control import foreground, iou
from gesso.mini.judging.detector import Detection, Detector, detect, load_detector
from gesso.mini.judging.judge_training import JudgePlan, make_judge
from gesso.mini.judging.model_pictures import ModelPictures
from gesso.mini.judging.style import StyleClassifier, accuracy, renderers, train_classifier
from gesso.request.request import TextToImageRequest
from gesso.scenes.caption import Captioner
from gesso.scenes.glyphs import render_glyphs
from gesso.scenes.render import Renderer
from gesso.scenes.scene import PART_SIZE, PLACES, VERTICAL, Category, Item, Scene, SceneSampler, moved
from gesso.scenes.vocabulary import Thing, things
from gesso.studio.studio import EngineOptions, ModelChoice, Studio

SIZE = 256
NEW = (  # things that gesso-mini has no word for
    Thing("🦞", "lobster", "lobsters", ()),
    Thing("🎻", "violin", "violins", ()),
    Thing("🔬", "microscope", "microscopes", ()),
    Thing("🪁", "kite", "kites", ()),
)
KNOWN = things("default")
TABLE = (*KNOWN, *NEW)
PROMPTS: dict[Category, int] = {"background": 34, "colours": 33, "position": 33}
COMPOSITION = 140


def extended(detector: Detector, count: int) -> Detector:
    """The detector with rows for more objects, which begin as "none of these"."""
    config = replace(detector.config, num_things=count)
    grown, old = Detector(config), detector.state_dict()
    place = 1 + detector.config.num_things  # of "none of these"
    for name in ("head.weight", "head.bias"):
        rows = old[name]
        new = rows[place : place + 1].repeat(count - detector.config.num_things, *([1] * (rows.ndim - 1)))
        old[name] = torch.cat([rows[:place], new, rows[place:]])
    grown.load_state_dict(old)
    return grown


def make_the_judge(folder: Path, samples: int) -> None:
    """Train the detector on composed pictures of all objects, and measure it."""
    renderer = Renderer(render_glyphs([thing.glyph for thing in TABLE]), 40_000)
    started = time.process_time()
    begun = extended(load_detector(KNOWN).detector, len(TABLE))
    figures = make_judge(
        TABLE,
        renderer,
        folder / "judge",
        folder / "judge.safetensors",
        JudgePlan(total_samples=samples, learning_rate=1e-3),
        start=begun,
        per_category=300,
        on_log=lambda row: print(row, flush=True),
    )
    assert figures is not None
    about: dict[str, Any] = {name: [one.accuracy, one.fooled / one.total] for name, one in figures.items()}
    detector, rng = load_detector(TABLE, folder / "judge.safetensors").detector, np.random.default_rng(7)
    for place, thing in enumerate(NEW, len(KNOWN)):
        asked = prompts_about(place, PROMPTS, seed=10**6)
        shown = np.stack([renderer(one.scene, SIZE) for one in asked])
        swapped = [_swapped(one.scene, place, int(rng.integers(len(TABLE) - 1))) for one in asked]
        others = np.stack([renderer(one, SIZE) for one in swapped])
        about[thing.name] = [
            len(_with(detector, shown, place)) / len(shown),
            len(_with(detector, others, place)) / len(others),
        ]
    note(folder, "judge", figures=about, cpu_seconds=round(time.process_time() - started), samples=samples)
    print(json.dumps(about, indent=1))


def _swapped(scene: Scene, place: int, other: int) -> Scene:
    other = other if other < place else other + 1
    return replace(scene, items=tuple(replace(i, thing=other if i.thing == place else i.thing) for i in scene.items))


def _with(detector: Detector, pictures: np.ndarray, place: int) -> list[int]:
    """The pictures that show the thing."""
    found = detect(detector, pictures)
    return [n for n, one in enumerate(found) if any(item.thing == place for item in one.objects)]


# ---- what a user has -------------------------------------------------------------------------------------------------


def own_scenes(place: int) -> list[tuple[str, Scene]]:
    """Ten pictures of a thing: alone, small, large, and beside other things."""
    name = TABLE[place].name
    row = {thing.name: number for number, thing in enumerate(KNOWN)}

    def alone(background: str, size: float, x: float = 0.5, y: float = 0.5) -> Scene:
        return Scene("background", background, (Item(place, x, y, size),))

    def beside(other: str, background: str, places: Sequence[tuple[float, float]]) -> Scene:
        first, second = places
        return Scene("two", background, (Item(place, *first, PART_SIZE), Item(row[other], *second, PART_SIZE)))

    return [
        (f"a {name}", alone("white", 0.72)),
        (f"a {name} on a blue background", alone("blue", 0.70, 0.53, 0.48)),
        (f"a {name} on a yellow background", alone("yellow", 0.74, 0.47, 0.5)),
        (f"a {name} on a green background", alone("green", 0.71, 0.5, 0.53)),
        (f"a small {name} on a gray background", alone("gray", 0.40)),
        (f"a large {name} on a pink background", alone("pink", 0.94)),
        (f"a {name} left of a cat", beside("cat", "white", PLACES[2])),
        (f"a {name} right of a house on a yellow background", beside("house", "yellow", PLACES[2][::-1])),
        (f"a {name} above a car", beside("car", "white", VERTICAL)),
        (f"a {name} below a star on a purple background", beside("star", "purple", VERTICAL[::-1])),
    ]


def write_pictures(folder: Path, pictures: Sequence[tuple[str, np.ndarray]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (caption, picture) in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(caption + "\n", encoding="utf-8")
    return folder


def own_folder(folder: Path, place: int, word: str = "") -> Path:
    renderer = Renderer(render_glyphs([thing.glyph for thing in TABLE]))
    own = [(spelled(text, TABLE[place].name, word), renderer(scene, SIZE)) for text, scene in own_scenes(place)]
    return write_pictures(folder, own)


# ---- new prompts -----------------------------------------------------------------------------------------------------


def prompts_about(place: int, counts: Mapping[Category, int], seed: int = 0) -> list[Prompt]:
    """New prompts about a thing: none is a caption of `own_scenes`, none comes twice."""
    captioner, asked = Captioner(TABLE), []
    taken = {text for text, _ in own_scenes(place)}
    for number, (category, count) in enumerate(counts.items()):
        rng, found = np.random.default_rng((seed, number)), 0
        sampler = SceneSampler(TABLE, {category: 1.0}, "any")
        while found < count:
            scene = sampler(rng)
            own = int(rng.integers(len(scene.items)))
            items = tuple(replace(one, thing=place) if n == own else one for n, one in enumerate(scene.items))
            if any(one.thing >= len(KNOWN) for n, one in enumerate(items) if n != own):
                continue
            scene = replace(scene, items=items)
            text = captioner(scene, rng)
            if text not in taken:
                taken.add(text)
                asked.append(Prompt(text, scene))
                found += 1
    return asked


# ---- the command line ------------------------------------------------------------------------------------------------


def gesso(*arguments: str, log: Path) -> dict[str, float]:
    """A command in a process of its own.  -> CPU seconds, seconds and peak memory in MiB; its output goes to the log"""
    print("$ gesso", " ".join(arguments), flush=True)
    started = time.monotonic()
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen([sys.executable, "-m", "gesso", *arguments], stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        told = log.read_text(encoding="utf-8")[-2000:]
        raise SystemExit(f"gesso {' '.join(arguments)}: exit code {process.returncode}\n{told}")
    return {
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "seconds": round(time.monotonic() - started, 1),
        "mib": round(usage.ru_maxrss / 1024),
    }


def train(folder: Path, name: str, kind: str, *options: str) -> Path:
    """Train folder/name.safetensors, unless it is there; what it took goes into folder/name.json."""
    output = folder / f"{name}.safetensors"
    if not output.exists():
        cost = gesso("train", kind, *options, "-o", str(output), log=folder / f"{name}.log")
        note(folder, name, training=cost, options=[kind, *options])
    return output


def drawn(folder: Path, name: str, prompts: Sequence[str], *options: str) -> np.ndarray:
    """Pictures of prompts, by `gesso batch`, unless they are there.  -> uint8 [B, 256, 256, 3]"""
    where = folder / name
    where.mkdir(parents=True, exist_ok=True)
    files = [where / f"{number:04}-1.png" for number in range(1, len(prompts) + 1)]
    if not all(one.exists() for one in files):
        lines = folder / f"{name}.prompts"
        told = [json.dumps({"prompt": one, "seed": 1 + number}) for number, one in enumerate(prompts)]
        lines.write_text("\n".join(told) + "\n", encoding="utf-8")
        gesso("batch", str(lines), "-o", str(where), *options, log=folder / f"{name}.log")
    return np.stack([np.asarray(Image.open(one).convert("RGB")) for one in files])


def composition(folder: Path, name: str, *options: str) -> dict[str, float]:
    """Shares of other prompts whose pictures are right, by `gesso evaluate composition`: by category and of all."""
    path = folder / f"{name}.composition.json"
    if not path.exists():
        fixed = ("--prompts", str(COMPOSITION), "--judge-pictures", "20", "-o", str(path))
        gesso("evaluate", "composition", *fixed, *options, log=folder / f"{name}.log")
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = {"all": report["pictures"]}
    for one in report["pictures"]:
        rows.setdefault(one["category"], []).append(one)
    return {kind: round(sum(one["right"] for one in some) / len(some), 4) for kind, some in rows.items()}


def note(folder: Path, name: str, **values: object) -> None:
    """Add to folder/name.json."""
    path = folder / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(before | values, indent=1) + "\n", encoding="utf-8")


# ---- the trials ------------------------------------------------------------------------------------------------------


def object_trial(folder: Path, name: str, thing: str, kind: str, options: Sequence[str], *, word: str = "") -> None:
    """Ten pictures of a thing become a word: train, draw new prompts, judge them beside the untrained model's.

    word: what the thing is called in captions and prompts; its own name if it is ""
    """
    place = next(n for n, one in enumerate(TABLE) if one.name == thing)
    pictures = own_folder(folder / (f"{thing}-as-{word}" if word else thing), place, word)
    file = train(folder, name, kind, str(pictures), *options)
    use = {"full": "-m", "dreambooth": "-m", "embedding": "--embedding"}.get(kind, "--lora"), str(file)
    asked = [replace(one, text=spelled(one.text, thing, word)) for one in prompts_about(place, PROMPTS)]
    texts = [one.text for one in asked]
    detector = load_detector(TABLE, folder / "judge.safetensors").detector
    own = drawn(folder, f"{name}.drawn", texts, *use)
    plain = drawn(folder, f"{thing}.untrained", [one.text for one in prompts_about(place, PROMPTS)])
    note(folder, name, judged=judged(detector, own, asked, place), untrained=judged(detector, plain, asked, place))
    before = composition(folder, "untrained")
    after = before if kind == "embedding" else composition(folder, name, *use)  # other prompts do not have its word
    note(folder, name, composition={"before": before, "after": after})
    print(json.dumps(json.loads((folder / f"{name}.json").read_text()), indent=1))


def judged(detector: Detector, pictures: np.ndarray, asked: Sequence[Prompt], place: int) -> dict[str, Any]:
    """How many show the thing, with Wilson's interval; by category; and how many show all that was asked."""
    seen = set(_with(detector, pictures, place))
    right = [judge(one, found).right for one, found in zip(asked, detect(detector, pictures), strict=True)]
    kinds = {kind: [n for n, one in enumerate(asked) if one.scene.category == kind] for kind in PROMPTS}
    return {
        "recognised": len(seen),
        "of": len(asked),
        "interval": [round(end, 3) for end in wilson(len(seen), len(asked))],
        "by_kind": {kind: [len(seen & set(some)), len(some)] for kind, some in kinds.items()},
        "all_that_was_asked": sum(right),
        "pictures": sorted(seen),
    }


def spelled(text: str, thing: str, word: str) -> str:
    """A text with a word in place of the thing's name."""
    return text.replace(thing, word) if word else text


# ---- a style ---------------------------------------------------------------------------------------------------------


class NightGlow(Renderer):
    """Night: the background deep and bluish, objects that shine, and a halo of warm light around each."""

    def __call__(self, scene: Scene, size: int) -> np.ndarray:
        """-> uint8 [size, size, 3]"""
        plain = super().__call__(scene, size).astype(np.float64)
        bare = super().__call__(replace(scene, items=()), size).astype(np.float64)
        outlined = replace(
            scene, background="white", items=tuple(replace(one, tint=None, style="silhouette") for one in scene.items)
        )
        shape = 255 - super().__call__(outlined, size)[..., 0]
        mask = shape[..., None] / 255
        soft = Image.fromarray(shape).filter(ImageFilter.GaussianBlur(size / 16))
        halo = np.asarray(soft, np.float64)[..., None] / 255
        night = 0.25 * bare + np.array((4.0, 8.0, 40.0))
        lit = night + 1.2 * halo * (np.array((255.0, 236.0, 170.0)) - night)
        drawn = plain - (1 - mask) * bare + (1 - mask) * lit.clip(0, 255)
        return drawn.round().clip(0, 255).astype(np.uint8)


STYLE = "night-glow"
STYLED: dict[Category, float] = {
    "single": 3.0, "background": 4.0, "colours": 3.0, "two": 3.0, "position": 2.0, "counting": 3.0, "attribution": 2.0,
}  # fmt: skip


def style_judge(folder: Path, draws: dict[str, Renderer]) -> StyleClassifier:
    """A classifier of the styles, trained once on composed pictures."""
    path, eyes = folder / f"{STYLE}-judge.pt", load_detector(KNOWN).detector
    if not path.exists():
        torch.save(train_classifier(eyes, KNOWN, draws).state_dict(), path)
    classifier = StyleClassifier(eyes, list(draws))
    classifier.load_state_dict(torch.load(path, weights_only=True))
    return classifier.eval()


def style_prompts() -> tuple[Prompt, ...]:
    """A hundred prompts about combinations that no training has seen."""
    return prompt_set(KNOWN, 98, 3, every_object=False) + prompt_set(KNOWN, 7, 4, every_object=False)[:2]


def style_trial(folder: Path, name: str, options: Sequence[str]) -> None:
    """Twenty pictures in a style become a style."""
    glyphs = render_glyphs([thing.glyph for thing in KNOWN])
    draws = {**renderers(glyphs), STYLE: NightGlow(glyphs)}
    rng, captioner = np.random.default_rng(5), Captioner(KNOWN)
    kinds = [kind for kind, share in STYLED.items() for _ in range(round(share))]
    scenes = [SceneSampler(KNOWN, {kind: 1.0})(rng) for kind in kinds]
    own = [(captioner(scene, rng), draws[STYLE](scene, SIZE)) for scene in scenes]
    file = train(folder, name, "lora", str(write_pictures(folder / STYLE, own)), *options)
    asked = style_prompts()
    texts = [one.text for one in asked]
    styled = drawn(folder, f"{name}.drawn", texts, "--lora", str(file))
    plain = drawn(folder, f"{name}.untrained", texts)
    classifier = style_judge(folder, draws)
    shares = accuracy(classifier, KNOWN, draws, count=210, seed=1)
    found = {"judged": classifier.kinds_of(styled), "untrained": classifier.kinds_of(plain)}
    told = {
        which: {
            "recognised": kinds.count(STYLE),
            "of": len(kinds),
            "interval": [round(end, 3) for end in wilson(kinds.count(STYLE), len(kinds))],
            "kinds": {kind: kinds.count(kind) for kind in draws},
        }
        for which, kinds in found.items()
    }
    note(folder, name, judge=shares, **told)
    detector = load_detector(KNOWN).detector
    composed = np.stack([draws[STYLE](one.scene, SIZE) for one in asked])
    right = {
        which: sum(judge(one, seen).right for one, seen in zip(asked, detect(detector, pictures), strict=True))
        for which, pictures in (("composed in the style", composed), ("drawn in it", styled), ("untrained", plain))
    }
    note(folder, name, all_that_was_asked=right)
    print((folder / f"{name}.json").read_text())


# ---- a ControlNet ----------------------------------------------------------------------------------------------------

LAYOUTS = 400  # pictures with their rectangles


def layout_of(scene: Scene, size: int = SIZE) -> np.ndarray:
    """White rectangles on black, one where each object is.  -> uint8 [size, size, 3]"""
    hint = np.zeros((size, size, 3), np.uint8)
    for left, top, right, bottom in map(box, scene.items):
        hint[round(top * size) : round(bottom * size), round(left * size) : round(right * size)] = 255
    return hint


def box(item: Item) -> tuple[float, float, float, float]:
    """Left, top, right and bottom, as shares of the side."""
    half = item.size / 2
    return item.x - half, item.y - half, item.x + half, item.y + half


def layout_trial(folder: Path, name: str, options: Sequence[str]) -> None:
    """Pictures with rectangles become a ControlNet for layouts."""
    renderer = Renderer(render_glyphs([thing.glyph for thing in KNOWN]))
    rng, captioner = np.random.default_rng(9), Captioner(KNOWN)
    sampler = SceneSampler(KNOWN, STYLED)
    scenes = [moved(sampler(rng), rng) for _ in range(LAYOUTS)]
    data = write_pictures(folder / "layouts", [(captioner(one, rng), renderer(one, SIZE)) for one in scenes])
    hints = folder / "layout-hints"
    hints.mkdir(exist_ok=True)
    for number, scene in enumerate(scenes):
        Image.fromarray(layout_of(scene)).save(hints / f"{number:03}.png")
    file = train(folder, name, "controlnet", str(data), "--hints", str(hints), *options)
    asked = style_prompts()
    asked = tuple(replace(one, scene=moved(one.scene, rng)) for one in asked)
    pipeline = Studio(EngineOptions(threads=1)).open(ModelChoice(model="gesso-mini"))
    plain = ModelPictures(pipeline.engine, pipeline.model, TextToImageRequest(prompt="-"))
    steered = plain.with_control(file)
    texts, seeds = [one.text for one in asked], list(range(1, 1 + len(asked)))
    hint = np.stack([layout_of(one.scene) for one in asked])
    parts = [slice(first, first + 20) for first in range(0, len(asked), 20)]
    pictures = {
        "judged": np.concatenate([steered(texts[part], seeds[part], hint[part]) for part in parts]),
        "untrained": np.concatenate([plain(texts[part], seeds[part]) for part in parts]),
        "composed": np.stack([renderer(one.scene, SIZE) for one in asked]),
    }
    detector = load_detector(KNOWN).detector
    told = {}
    for which, drawn_ones in pictures.items():
        found = detect(detector, drawn_ones)
        placed = [all(in_place(item, seen) for item in one.scene.items) for one, seen in zip(asked, found, strict=True)]
        right = [judge(one, seen).right for one, seen in zip(asked, found, strict=True)]
        overlaps = [
            iou(foreground(picture), layout[..., 0] > 0) for picture, layout in zip(drawn_ones, hint, strict=True)
        ]
        told[which] = {
            "in_place": sum(placed),
            "of": len(placed),
            "interval": [round(end, 3) for end in wilson(sum(placed), len(placed))],
            "all_that_was_asked": sum(right),
            "overlap": round(float(np.mean(overlaps)), 3),
        }
    note(folder, name, **told)
    shown = [
        np.concatenate([hint[n], *(pictures[which][n] for which in ("judged", "untrained"))]) for n in range(0, 100, 8)
    ]
    Image.fromarray(np.concatenate(shown, axis=1)).reduce(2).save(folder / f"{name}.png")
    print((folder / f"{name}.json").read_text())


def in_place(item: Item, seen: Detection) -> bool:
    """Whether the object has its middle in the half of its rectangle around the middle."""
    reach = item.size / 4
    return any(
        one.thing == item.thing and abs(one.x - item.x) <= reach and abs(one.y - item.y) <= reach
        for one in seen.objects
    )


# ---- all of them -----------------------------------------------------------------------------------------------------

OBJECT = "microscope"
# What is typed after `gesso train KIND FOLDER`, and what the thing is called.
OBJECTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "lora": ("lora", "", ("--trigger", OBJECT)),
    "lora-alone": ("lora", "", ("--trigger", OBJECT, "--class-pictures", "0")),
    "dreambooth": ("dreambooth", "", ("--trigger", OBJECT)),
    "zorb": ("embedding", "zorb", ()),  # an embedding is called by its file's name
}
OTHERS: dict[str, tuple[Callable[..., None], tuple[str, ...]]] = {
    "style": (style_trial, ()),
    "layouts": (layout_trial, ("--caption-dropout", "0.5", "--train-steps", "600")),
}


def show_table(folder: Path) -> None:
    """What was found, as a table of Markdown."""
    print("| trial | judged | untrained | other prompts: before, after | CPU minutes | peak memory |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in (*OBJECTS, *OTHERS):
        path = folder / f"{name}.json"
        if not path.exists():
            continue
        told = json.loads(path.read_text(encoding="utf-8"))
        key = "in_place" if name == "layouts" else "recognised"
        shares = [f"{told[which][key]} of {told[which]['of']}" for which in ("judged", "untrained")]
        low, high = told["judged"]["interval"]
        other = told.get("composition", {})
        kept = f"{other['before']['all']:.2f}, {other['after']['all']:.2f}" if other else ""
        cost = told["training"]
        print(
            f"| {name} | {shares[0]} ({low:.2f} to {high:.2f}) | {shares[1]} | {kept} | {cost['cpu_seconds'] / 60:.1f} "
            f"| {cost['mib']} MiB |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("judge", "table", *OBJECTS, *OTHERS), nargs="+")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/own"))
    parser.add_argument("--samples", type=int, default=40_000, help="composed pictures that the judge learns from")
    parser.add_argument("--thing", choices=[one.name for one in NEW], default=OBJECT)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in given.what:
        if name == "judge":
            make_the_judge(given.folder, given.samples)
        elif name == "table":
            show_table(given.folder)
        elif name in OBJECTS:
            kind, word, options = OBJECTS[name]
            options = tuple(given.thing if one == OBJECT else one for one in options)
            object_trial(given.folder, name, given.thing, kind, options, word=word)
        else:
            trial, options = OTHERS[name]
            trial(given.folder, name, options)
