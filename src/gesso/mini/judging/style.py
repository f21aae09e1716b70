"""Style adherence: a small classifier, trained on the spot on composed pictures, and the share of a model's pictures
that it assigns to the style.

Its own accuracy, on new composed pictures of unseen combinations, is reported with the score.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.mini.judging.composition import CATEGORIES, Generate, new_scenes, prompt_set
from gesso.mini.judging.detector import Detector, load_detector, to_input
from gesso.mini.judging.judge_training import MIX, roughen
from gesso.scenes.render import Renderer
from gesso.scenes.scene import SceneSampler
from gesso.scenes.styles import STYLES, StyledRenderer
from gesso.scenes.vocabulary import Thing

PLAIN = "plain"


class StyleClassifier(nn.Module):
    """Begins with the eyes of a judge.  pixels [B, 3, 64, 64] in [-1, 1] -> logits [B, len(kinds)]"""

    def __init__(self, detector: Detector, kinds: Sequence[str]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.quarter = copy.deepcopy(nn.Sequential(detector.stem, detector.quarter))
        self.eighth = copy.deepcopy(detector.eighth)
        channels = detector.config.channels
        self.head = nn.Linear(2 * (channels[1] + channels[2]), len(self.kinds))
        self.requires_grad_(True)

    def forward(self, pixels: Tensor) -> Tensor:
        quarter = self.quarter(pixels)
        features = [
            x for maps in (quarter, self.eighth(quarter)) for x in (maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3)))
        ]
        logits: Tensor = self.head(torch.cat(features, dim=1))
        return logits

    @torch.no_grad()
    def kinds_of(self, images: np.ndarray) -> list[str]:
        """uint8 [B, H, H, 3], H >= 64 -> the style of each. In eval mode."""
        return [self.kinds[int(row.argmax())] for row in self(to_input(images))]


def renderers(glyphs: np.ndarray) -> dict[str, Renderer]:
    """What draws plain pictures, and each of STYLES."""
    return {PLAIN: Renderer(glyphs)} | {style: StyledRenderer(glyphs, style) for style in STYLES}


def train_classifier(
    detector: Detector,
    things: tuple[Thing, ...],
    draws: dict[str, Renderer],
    *,
    steps: int = 400,
    batch_size: int = 48,
    learning_rate: float = 2e-3,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> StyleClassifier:
    """A minute or two of one core. detector: to begin with. draws: each kind that it tells from the others.

    Pictures are roughened as those of small generators are; all follows from the seed.
    """
    torch.manual_seed(seed)
    classifier, sampler = StyleClassifier(detector, list(draws)).train(), SceneSampler(things, MIX)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate)
    for step in range(steps):
        rng = np.random.default_rng((seed, step))
        kinds = rng.integers(len(draws), size=batch_size)
        drawn = np.stack([draws[classifier.kinds[kind]](sampler(rng), 64) for kind in kinds])
        pixels = roughen(to_input(drawn), torch.Generator().manual_seed(int(rng.integers(2**62))))
        loss = F.cross_entropy(classifier(pixels), torch.from_numpy(kinds))
        loss.backward()
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
        on_step(step + 1, steps)
    return classifier.eval().requires_grad_(False)


def accuracy(
    classifier: StyleClassifier,
    things: tuple[Thing, ...],
    draws: dict[str, Renderer],
    *,
    count: int = 210,
    seed: int = 0,
) -> dict[str, float]:
    """Share of new composed pictures of held-out combinations that it classifies correctly, by kind."""
    scenes = []
    for index, category in enumerate(CATEGORIES):
        new = new_scenes(category, things, np.random.default_rng((seed, 10**8 + index)))
        scenes += [scene for scene, _ in zip(new, range(-(-count // len(CATEGORIES))), strict=False)]
    kinds = {kind: classifier.kinds_of(np.stack([draw(one, 256) for one in scenes])) for kind, draw in draws.items()}
    return {kind: share(new, kind) for kind, new in kinds.items()}


def share(kinds: Sequence[str], kind: str) -> float:
    return sum(one == kind for one in kinds) / len(kinds)


@dataclass(frozen=True, kw_only=True)
class StyleReport:
    """accuracy: of the classifier on true pictures, by kind; styled, plain: share of a model's pictures taken for the
    style with the LoRA, and for plain ones without it"""

    style: str
    prompts: int
    accuracy: dict[str, float]
    styled: float
    plain: float


def evaluate_style(
    styled: Generate,
    generate: Generate,
    style: str,
    *,
    things: tuple[Thing, ...],
    glyphs: np.ndarray,
    num_prompts: int = 200,
    seed: int = 0,
    batch_size: int = 32,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> StyleReport:
    """Draw each prompt twice from the same seed, with the LoRA (styled) and without; picture i gets seed + i."""
    draws = renderers(glyphs)
    classifier = train_classifier(load_detector(things).detector, things, draws, seed=seed)
    prompts = [one.text for one in prompt_set(things, num_prompts, seed, every_object=False)]
    kinds: dict[str, list[str]] = {style: [], PLAIN: []}
    for start in range(0, len(prompts), batch_size):
        texts = prompts[start : start + batch_size]
        seeds = list(range(seed + start, seed + start + len(texts)))
        for kind, draw in ((style, styled), (PLAIN, generate)):
            kinds[kind] += classifier.kinds_of(draw(texts, seeds))
        on_progress(start + len(texts), len(prompts))
    return StyleReport(
        style=style,
        prompts=len(prompts),
        accuracy=accuracy(classifier, things, draws, seed=seed),
        styled=share(kinds[style], style),
        plain=share(kinds[PLAIN], PLAIN),
    )
