"""A network that steers, ready to run beside one model."""

from dataclasses import dataclass

from gesso.families.control_network import ControlParts, SteeringNetwork
from gesso.runtime.residency import Component


@dataclass(frozen=True, eq=False)
class LoadedControl:
    """Made by `Engine.load_control`. It computes while it has joined the model's residency."""

    name: str  # of the file or folder, without the path to it
    parts: ControlParts
    component: Component

    @property
    def network(self) -> SteeringNetwork:
        return self.parts.network
