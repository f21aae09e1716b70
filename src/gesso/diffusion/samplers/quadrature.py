"""Coefficients of linear multistep solvers: integrals of Lagrange polynomials under an exponential weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray


def lagrange_integrals(nodes: Sequence[float], start: float, end: float, rate: float = 0.0) -> list[float]:
    """Integrals over u from start to end of exp(rate (u - end)) l_j(u), l_j the Lagrange polynomials of the nodes.

    nodes: 1 to 4 numbers that differ. start may be -inf where rate > 0. rate 0 gives Adams-Bashforth with uneven steps.
    By Gauss-Legendre with 32 points, exact to rounding as long as rate (end - start) stays below about 30.
    """
    if start == -math.inf:
        return [
            math.fsum(c * _moment(k, rate) for k, c in enumerate(_powers(nodes, j, end))) for j in range(len(nodes))
        ]
    points, weights = _gauss()
    u = (start + end) / 2 + points * ((end - start) / 2)
    weights = weights * ((end - start) / 2) * np.exp(rate * (u - end))
    return [float((weights * _lagrange(nodes, j, u)).sum()) for j in range(len(nodes))]


def _lagrange(nodes: Sequence[float], j: int, u: NDArray[np.float64]) -> NDArray[np.float64]:
    product = np.ones_like(u)
    for i, other in enumerate(nodes):
        if i != j:
            product = product * ((u - other) / (nodes[j] - other))
    return product


def _powers(nodes: Sequence[float], j: int, origin: float) -> list[float]:
    """l_j as a polynomial in u - origin, lowest power first."""
    polynomial = [1.0]
    for i, other in enumerate(nodes):
        if i != j:
            shift, scale = other - origin, 1 / (nodes[j] - other)
            pairs = zip([0.0, *polynomial], [*polynomial, 0.0], strict=True)
            polynomial = [(low - shift * high) * scale for low, high in pairs]
    return polynomial


def _moment(power: int, rate: float) -> float:
    """Integral of u^power exp(rate u) from -inf to 0."""
    return (-1) ** power * math.factorial(power) / rate ** (power + 1)


@cache
def _gauss() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    points, weights = np.polynomial.legendre.leggauss(32)
    return points, weights
