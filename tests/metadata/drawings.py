"""Nodes of ComfyUI's workflow, the graph as its UI draws it."""

from typing import Any


def drawn(number: int, kind: str, values: Any, mode: int = 0, **links: tuple[str, int | None]) -> dict[str, Any]:
    """A node. links: input -> what goes along, and the number of its link."""
    inputs = [{"name": name, "type": along, "link": link} for name, (along, link) in links.items()]
    return {"id": number, "type": kind, "mode": mode, "inputs": inputs, "outputs": [], "widgets_values": values}


def drawn_sampler(number: int, values: Any, model: int, positive: int, negative: int, latent: int) -> dict[str, Any]:
    """A KSampler, with the numbers of the links to its inputs."""
    return drawn(
        number,
        "KSampler",
        values,
        model=("MODEL", model),
        positive=("CONDITIONING", positive),
        negative=("CONDITIONING", negative),
        latent_image=("LATENT", latent),
    )
