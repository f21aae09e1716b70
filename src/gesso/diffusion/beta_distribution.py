"""Quantiles of the beta distribution, for the schedules that space their steps by it."""

from __future__ import annotations

import math

_SMALLEST = 1e-300
_EPSILON = 2.0**-52


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = p, the inverse of the regularised incomplete beta function.

    p in 0..1, a and b above 0 -> 0..1, to a few units in the last place of float64 for a and b between 0.1 and 10.
    Newton's method on the continued fraction, kept inside a bracket that shrinks. Raises ValueError for arguments
    outside.
    """
    if not (0 <= p <= 1 and a > 0 and b > 0):
        raise ValueError(f"p, a, b are {p}, {a}, {b}, expected 0 <= p <= 1 and a, b > 0")
    if p in (0.0, 1.0):
        return p
    if p == 0.5 and a == b:
        return 0.5  # to the last bit, since callers round to whole timesteps
    if p > beta_cdf(0.5, a, b):  # close to 1, 1 - x has the digits
        return 1 - beta_quantile(1 - p, b, a)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    low, high = 0.0, 0.5
    # I_x is x^a / (a B) times something near 1 for small x.
    x = min(math.exp((math.log(p * a) + log_beta) / a), 0.5)
    for _ in range(200):
        gap = beta_cdf(x, a, b) - p
        low, high = (low, x) if gap > 0 else (x, high)
        density = math.exp((a - 1) * math.log(x) + (b - 1) * math.log1p(-x) - log_beta)
        following = x - gap / density
        if not low < following < high:
            following = (low + high) / 2
        if abs(following - x) <= 2 * _EPSILON * x:
            return following
        x = following
    return x


def beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, x in 0..1 (Abramowitz and Stegun, 26.5.8)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    # The fraction converges quickly below the mean; above it the function is turned round.
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(x, a, b) / a
    return 1 - front * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction of I_x(a, b), by the modified method of Lentz (Thompson and Barnett 1986)."""
    c, d = 1.0, _away_from_zero(1 - (a + b) * x / (a + 1))
    d = 1 / d
    total = d
    for m in range(1, 500):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            total *= c * d
        if abs(c * d - 1) < _EPSILON:
            break
    return total


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _SMALLEST else _SMALLEST
