"""The optimisers of a training: torch's AdamW, Muon, and those of two packages that come with extras.

pytorch-optimizer has Adafactor (Shazeer & Stern 2018, arXiv:1804.04235), Lion (Chen et al. 2023, arXiv:2302.06675),
Prodigy (Mishchenko & Defazio 2023, arXiv:2306.06101) and schedule-free AdamW (Defazio et al. 2024, arXiv:2405.15682);
bitsandbytes AdamW with moments of 8 bits (Dettmers et al. 2022, arXiv:2110.02861).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from gesso.extras import import_extra, missing_extra
from gesso.training.loop import Plan, optimizer_for


@dataclass(frozen=True)
class OptimizerRow:
    """An optimiser of a package.

    extra, module, name  of gesso's extra, and where the class is
    rate        of its usual learning rates to AdamW's; None: it finds its own, and 1 is meant
    options     beside rate, betas and weight decay
    has_betas   whether it takes AdamW's
    plain       its rate neither rises nor falls by a schedule: it averages instead
    moments     numbers that it keeps for each that learns, in those of AdamW's size
    """

    extra: str
    module: str
    name: str
    rate: float | None = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    has_betas: bool = True
    plain: bool = False
    moments: float = 2.0


PACKAGED: Mapping[str, OptimizerRow] = MappingProxyType(
    {
        # The rate as it is, neither by the step nor by the weight's size: LoRA's upper factors begin at zero.
        "adafactor": OptimizerRow(
            "optimizers",
            "pytorch_optimizer",
            "AdaFactor",
            options={"betas": (None, 0.999), "scale_parameter": False, "relative_step": False},
            has_betas=False,
            moments=0.0,
        ),
        "lion": OptimizerRow(  # its steps are all of one size: a third to a tenth of AdamW's rate (section 5 there)
            "optimizers",
            "pytorch_optimizer",
            "Lion",
            rate=0.2,
            options={"betas": (0.9, 0.99)},
            has_betas=False,
            moments=1,
        ),
        "prodigy": OptimizerRow(
            "optimizers",
            "pytorch_optimizer",
            "Prodigy",
            rate=None,
            options={"bias_correction": True, "safeguard_warmup": True},
            moments=4,
        ),
        "schedulefree": OptimizerRow("optimizers", "pytorch_optimizer", "ScheduleFreeAdamW", rate=2.0, plain=True),
        "adamw8bit": OptimizerRow("eight-bit", "bitsandbytes.optim", "AdamW8bit", moments=0.5),
    }
)


def check_installed(name: str) -> None:
    """Raises GessoError for an optimiser whose package is missing, with what to type."""
    if name in PACKAGED:
        _class_of(name)


def _class_of(name: str) -> Any:
    row = PACKAGED[name]
    try:
        return getattr(import_extra(row.module), row.name)
    except ImportError as error:
        package = row.module.partition(".")[0].replace("_", "-")
        raise missing_extra(
            f"`optimizer` {name}", f"the package {package}", row.extra, error, field="optimizer"
        ) from error


def make_optimizer(name: str, groups: list[dict[str, Any]], plan: Plan) -> torch.optim.Optimizer:
    """An optimiser by the name in the settings. Raises GessoError for a package that is missing."""
    if name not in PACKAGED:
        return optimizer_for(groups, plan)
    row = PACKAGED[name]
    options = {**row.options, **({"betas": plan.betas} if row.has_betas else {})}
    made: torch.optim.Optimizer = _class_of(name)(
        groups, lr=plan.learning_rate, weight_decay=plan.weight_decay, **options
    )
    return made
