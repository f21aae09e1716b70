"""A sampler: a generator that asks for the model and returns the final x."""

from collections.abc import Generator
from itertools import pairwise

from torch import Tensor

from gesso import ModelCall, NoiseSource, Sampler


def ralston(x: Tensor, sigmas: Tensor, noise: NoiseSource | None = None) -> Generator[ModelCall, Tensor, Tensor]:
    """Ralston's method (Ralston 1962, Runge-Kutta methods with minimum error bounds): second order, two calls a step.

    x [B, ...] holding noise of sigmas[0]; sigmas [num_steps + 1], falling -> x holding noise of sigmas[-1]. Draws no
    random numbers. A step that ends in 0 takes one call.
    """
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas.tolist())):
        x0 = yield ModelCall(x, sigma, step)
        if sigma_next == 0:
            x = x0
            continue
        slope, length = (x - x0) / sigma, sigma_next - sigma
        middle = sigma + length * 2 / 3
        x_middle = x + slope * (middle - sigma)
        x0 = yield ModelCall(x_middle, middle, step)
        slope_middle = (x_middle - x0) / middle
        x = x + (slope + 3 * slope_middle) * (length / 4)
    return x


RALSTON = Sampler("Ralston", ralston, order=2, stochastic=False, calls_per_step=2, schedule="karras")
