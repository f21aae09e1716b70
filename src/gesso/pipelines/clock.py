"""The current step of a run, which scheduled prompts, LoRA strengths and control networks follow."""

from dataclasses import dataclass


@dataclass
class Clock:
    """The current step of a run.

    num_steps  steps of the whole schedule, including those that an image to image run skips
    step       index of the step, 0 to num_steps - 1; all calls of one step have the same
    """

    num_steps: int
    step: int = 0

    @property
    def share(self) -> float:
        """Share of the schedule before this step: 0 at the first, below 1 at the last."""
        return self.step / self.num_steps
