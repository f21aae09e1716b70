"""Libraries that tests compare with."""

import warnings
from typing import Any


def quiet_diffusers() -> Any:
    """diffusers, which says nothing and draws no progress bar."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    return diffusers
