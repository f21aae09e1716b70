"""ControlNet adherence: how well a picture follows its edge map, with and without the ControlNet, on the same prompts
and seeds.

The pictures are composed ones of combinations that training never showed, in two placements: where the model would put
the objects anyway, and somewhere else. Only the second shows that the map leads.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from gesso.hints.registry import preprocess
from gesso.mini.judging.composition import Generate, prompt_set, thumbnail
from gesso.scenes.render import Renderer
from gesso.scenes.scene import moved
from gesso.scenes.vocabulary import Thing

DrawControlled = Callable[[list[str], list[int], np.ndarray], np.ndarray]
"""(prompts, one seed each, hints uint8 [B, H, H, 3]) -> uint8 [B, H, H, 3]"""

PLACEMENTS = ("usual", "moved")
HINT = "canny"
TOLERANCE = 1 / 64  # of the side, by which an edge may lie beside the one that is asked for
FOREGROUND = 40  # levels from the background's colour


def edge_f1(edges: np.ndarray, expected: np.ndarray) -> float:
    """Harmonic mean of two shares: edges found that are wanted near there, and edges wanted that are found near there.

    bool [H, H] each; near: within TOLERANCE of the side, in both directions. 1 where both are empty.
    """
    reach = max(1, round(TOLERANCE * len(expected)))
    maps = torch.from_numpy(np.stack([edges, expected])).float()[:, None]
    near = F.max_pool2d(maps, 2 * reach + 1, 1, reach)
    hits = (maps * near.flip(0)).sum(dim=(1, 2, 3))
    counts = maps.sum(dim=(1, 2, 3))
    if not bool(counts.any()):
        return 1.0
    precision, recall = (float(hit / count) if count else 0.0 for hit, count in zip(hits, counts, strict=True))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def foreground(image: np.ndarray) -> np.ndarray:
    """uint8 [H, H, 3] -> bool [H, H]: what differs from the colour that most of the border has"""
    border = np.concatenate([image[:2].reshape(-1, 3), image[-2:].reshape(-1, 3), *(image[:, [0, -1]])])
    return np.abs(image.astype(int) - np.median(border, axis=0)).max(axis=2) > FOREGROUND


def iou(mask: np.ndarray, expected: np.ndarray) -> float:
    """Intersection over union of bool [H, H]; 1 where both are empty."""
    union = (mask | expected).sum()
    return float((mask & expected).sum() / union) if union else 1.0


def edges_of(image: np.ndarray) -> np.ndarray:
    """uint8 [H, H, 3] -> bool [H, H]"""
    return np.asarray(preprocess(HINT, Image.fromarray(image)))[..., 0] > 127


@dataclass(frozen=True, kw_only=True)
class EdgeAgreement:
    """One prompt's two pictures. f1, iou: (with, without) the ControlNet"""

    prompt: str
    seed: int
    f1: tuple[float, float]
    iou: tuple[float, float]
    thumbnails: tuple[np.ndarray, ...] = field(repr=False)  # thumbnails: the map, with, without


@dataclass(frozen=True, kw_only=True)
class ControlReport:
    """What an evaluation found, by placement."""

    seed: int
    settings: Mapping[str, Any]
    results: Mapping[str, Sequence[EdgeAgreement]] = field(repr=False)

    def rows(self) -> list[dict[str, Any]]:
        """Means, their standard errors, and the share of pictures that the ControlNet brings nearer to the map."""
        rows = []
        for placement, pictures in self.results.items():
            for measure in ("f1", "iou"):
                pairs = np.array([getattr(one, measure) for one in pictures])
                means, errors = pairs.mean(axis=0), pairs.std(axis=0, ddof=1) / len(pairs) ** 0.5
                rows.append(
                    {
                        "placement": placement,
                        "measure": {"f1": "edge F1", "iou": "foreground IoU"}[measure],
                        "prompts": len(pairs),
                        "with": float(means[0]),
                        "with_error": float(errors[0]),
                        "without": float(means[1]),
                        "without_error": float(errors[1]),
                        "nearer": float((pairs[:, 0] > pairs[:, 1]).mean()),
                    }
                )
        return rows

    def to_json(self) -> str:
        pictures = {
            placement: [{k: v for k, v in vars(one).items() if k != "thumbnails"} for one in pictures]
            for placement, pictures in self.results.items()
        }
        whole = {"format": "gesso-control", "version": 1, "seed": self.seed, "settings": dict(self.settings)}
        return json.dumps(whole | {"scores": self.rows(), "pictures": pictures}, indent=1)


def evaluate_control(
    draw_controlled: DrawControlled,
    generate: Generate,
    *,
    things: tuple[Thing, ...],
    renderer: Renderer,
    size: int,
    num_prompts: int = 200,
    seed: int = 0,
    batch_size: int = 32,
    settings: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> ControlReport:
    """Draw each prompt twice from the same seed, with the edges of a composed picture of its scene and without.

    draw_controlled, generate  the model with the ControlNet, and without; picture i gets seed + i
    size                       of the pictures and the hints
    """
    prompts = prompt_set(things, num_prompts, seed, every_object=False)
    results: dict[str, list[EdgeAgreement]] = {placement: [] for placement in PLACEMENTS}
    rng = np.random.default_rng((seed, 10**7))
    for start in range(0, len(prompts), batch_size):
        batch = prompts[start : start + batch_size]
        texts, seeds = [one.text for one in batch], [seed + start + row for row in range(len(batch))]
        plain = generate(texts, seeds)  # no placement changes it
        for placement in PLACEMENTS:
            scenes = [moved(one.scene, rng) if placement == "moved" else one.scene for one in batch]
            originals = [renderer(scene, size) for scene in scenes]
            hints = np.stack([np.asarray(preprocess(HINT, Image.fromarray(image))) for image in originals])
            drawn = draw_controlled(texts, seeds, hints)
            for text, one, image, hint, steered, free in zip(texts, seeds, originals, hints, drawn, plain, strict=True):
                edges, mask = hint[..., 0] > 127, foreground(image)
                f1, overlap = (
                    tuple(measure(of(picture), target) for picture in (steered, free))
                    for measure, of, target in ((edge_f1, edges_of, edges), (iou, foreground, mask))
                )
                thumbnails = tuple(thumbnail(picture) for picture in (hint, steered, free))
                results[placement].append(
                    EdgeAgreement(
                        prompt=text, seed=one, f1=(f1[0], f1[1]), iou=(overlap[0], overlap[1]), thumbnails=thumbnails
                    )
                )
        on_progress(start + len(batch), len(prompts))
    return ControlReport(seed=seed, settings=settings or {}, results=results)
