"""A ControlNet or T2I-Adapter that is loaded, for one model."""

from dataclasses import dataclass

from gesso.families.control_network import ControlNetwork, ControlParts
from gesso.runtime.residency import Component


@dataclass(frozen=True, eq=False)
class LoadedControl:
    """Made by `Engine.load_control`. It is onloaded with the model's UNet, see `LoadedModel.with_controls`."""

    name: str  # of the file or folder, without the path to it
    parts: ControlParts
    component: Component

    @property
    def network(self) -> ControlNetwork:
        return self.parts.network
