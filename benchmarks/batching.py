"""Eight unlike pictures of the default model: one after the other, side by side, and sharing calls of the networks.

    python benchmarks/batching.py --threads 2 --repeats 3

Their prompts, seeds, samplers, guidance and numbers of steps differ, and one has a LoRA. Checks first that side by side
every picture is the same bit by bit, and how far sharing calls moves one; then the three ways are timed by turns.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from gesso import Engine, TextToImage, TextToImageRequest
from gesso.request.parts import LoraUse
from gesso.runtime.batcher import Batcher

REQUESTS = (
    TextToImageRequest(prompt="a red car on a yellow background", seed=1),
    TextToImageRequest(prompt="three green apples", seed=2, sampler="euler"),
    TextToImageRequest(prompt="a blue cat", seed=3, guidance_scale=6.0, schedule="karras"),
    TextToImageRequest(prompt="a kitty above a pizza", seed=4, num_steps=12),
    TextToImageRequest(prompt="a purple rocket", seed=5, sampler="ddim"),
    TextToImageRequest(prompt="a bee", seed=6, negative_prompt="a flower", sampler="dpmpp_2m_sde"),
    TextToImageRequest(prompt="two dogs", seed=7, loras=(LoraUse(name="comic"),)),
    TextToImageRequest(prompt="a tree on a pink background", seed=8, sampler="euler_ancestral", num_steps=24),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    engine = Engine(dtype=options.dtype)
    draw = TextToImage(engine, engine.load())

    def one_by_one() -> list[np.ndarray]:
        return [np.asarray(picture.image) for request in REQUESTS for picture in draw(request)]

    def together(runs_per_call: int) -> Callable[[], list[np.ndarray]]:
        def drawn() -> list[np.ndarray]:
            runs = [run for request in REQUESTS for run in draw.runs(request)]
            return [np.asarray(picture.image) for picture in Batcher(runs_per_call).complete(runs)]

        return drawn

    ways = {"one_by_one": one_by_one, "side_by_side": together(1), "sharing": together(len(REQUESTS))}
    expected = one_by_one()
    assert all(np.array_equal(*pair) for pair in zip(ways["side_by_side"](), expected, strict=True))
    shared = ways["sharing"]()
    gaps = [np.abs(a.astype(int) - b.astype(int)) for a, b in zip(shared, expected, strict=True)]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "what": f"{len(REQUESTS)} unlike pictures of gesso-mini",
                "dtype": draw.model.precision.name,
                "device": engine.environment(draw.model).device,
                "processor": platform.processor() or platform.machine(),
                "torch": str(torch.__version__),
                "threads": options.threads,
                "seconds": {name: round(statistics.median(times), 2) for name, times in seconds.items()},
                "side_by_side_over_one_by_one": _ratio(seconds["side_by_side"], seconds["one_by_one"]),
                "sharing_over_one_by_one": _ratio(seconds["sharing"], seconds["one_by_one"]),
                "largest_gap_levels": int(max(gap.max() for gap in gaps)),
                "share_of_values_moved": float(np.mean([(gap > 0).mean() for gap in gaps])),
            }
        )
    )


def _ratio(ours: Sequence[float], other: Sequence[float]) -> float:
    """Of the medians of pairs that were timed next to each other."""
    return round(statistics.median(a / b for a, b in zip(ours, other, strict=True)), 3)


if __name__ == "__main__":
    main()
