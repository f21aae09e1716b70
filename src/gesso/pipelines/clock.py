"""Where a run is: what prompts, adapters and control networks that change over the steps go by."""

from dataclasses import dataclass


@dataclass
class Clock:
    """The step that is being computed.

    num_steps  steps of the whole schedule, those that an image to image run leaves out included
    step       index of the step, 0 to num_steps - 1; both calls of a sampler that calls twice have the same
    """

    num_steps: int
    step: int = 0

    @property
    def share(self) -> float:
        """Share of the schedule that lies before this step: 0 at the first, below 1 at the last."""
        return self.step / self.num_steps
