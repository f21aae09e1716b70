"""The rows of a training's log as TensorBoard reads them."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from gesso.extras import missing_extra


class TensorBoard:
    """Writes every figure of a row under its name. Raises GessoError where the package is not installed."""

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise missing_extra("`tensorboard`", "the package tensorboard", "tensorboard", field="tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def __call__(self, row: Mapping[str, float]) -> None:
        """Add a row; one that comes again takes the place of the first."""
        for name, value in row.items():
            if name != "step":
                kind, _, time = name.partition("_")
                tag = f"{kind} by timestep/{time}" if kind in ("seen", "held") and time.isdigit() else name
                self._writer.add_scalar(tag, value, int(row["step"]))

    def close(self) -> None:
        """Write what is waiting."""
        self._writer.close()
