"""`TuningTask`: batches of the user's pictures, the loss, and losses that can be compared from step to step.

Everything random in a step follows from (seed, step): which pictures, mirrored or not, which caption, timestep, noise.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gesso.families.encoding import Sizes
from gesso.families.parts import ModelParts
from gesso.nn.attention import SpatialTransformer
from gesso.nn.resblock import ResBlock
from gesso.training.group import Group
from gesso.training.sharding import is_parted
from gesso.training.task import Enter, Figures, generator_for
from gesso.tuning.captions import trigger_pattern
from gesso.tuning.conditions import MAX_KEPT, Conditions, sizes_of
from gesso.tuning.keeping import keeping_less
from gesso.tuning.latents import Encoded
from gesso.tuning.learners import Learner, LoraLearner
from gesso.tuning.objective import Objective, quantile_times
from gesso.tuning.survey import Found

MAX_REPORTED = 6  # pictures of each kind whose losses a report takes
REPORTED_TIMES = 8  # timesteps of each
OTHERS_CAPTION = 0.5  # share of steps in which a picture of the class meets the caption of another
FIXED = 10**9  # seed of the noise of reports
CHECKPOINTED = (ResBlock, SpatialTransformer)

Latents = Mapping[tuple[int, bool], Encoded]


class Batches:
    """Which pictures each step sees: every epoch all of them, as often as they repeat, a batch from one bucket.

    places  of the pictures that take part. Pictures of the class come in as many as there are of those to learn, the
    next ones each epoch. The last batch of a bucket may be short.
    """

    def __init__(self, found: Sequence[Found], places: Sequence[int], batch_size: int, seed: int) -> None:
        self.found, self.batch_size, self.seed = found, batch_size, seed
        self.own = [p for p in places if not found[p].subset.is_reg for _ in range(found[p].subset.repeats)]
        self.reg = [p for p in places if found[p].subset.is_reg for _ in range(found[p].subset.repeats)]
        self._starts = [0]  # the number of the first batch of each epoch that is known
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of an epoch."""
        if self._epoch[0] != number:
            rng = random.Random(f"{self.seed} {number}")
            first = number * len(self.own)
            reg = [self.reg[(first + i) % len(self.reg)] for i in range(len(self.own))] if self.reg else []
            buckets: dict[tuple[int, int], list[int]] = {}
            for place in [*self.own, *reg]:
                buckets.setdefault(self.found[place].framing.bucket, []).append(place)
            batches = []
            for bucket in sorted(buckets):
                places = buckets[bucket]
                rng.shuffle(places)
                batches += [places[i : i + self.batch_size] for i in range(0, len(places), self.batch_size)]
            rng.shuffle(batches)
            self._epoch = number, batches
        return self._epoch[1]

    def __call__(self, number: int) -> list[int]:
        """The places of batch `number` of the run."""
        while self._starts[-1] <= number:
            self._starts.append(self._starts[-1] + len(self.epoch(len(self._starts) - 1)))
        epoch = next(e for e in range(len(self._starts) - 2, -1, -1) if self._starts[e] <= number)
        return self.epoch(epoch)[number - self._starts[epoch]]


class TuningTask:
    """A model of which a part learns, for the training loop.

    parts      on the device. learner: what learns in them; the rest needs no gradients
    found, latents  the pictures, by the same places
    held       places of pictures that are never trained on
    text_rate  learning rate of what is in the text encoders; None: the one of all
    preserved  (trigger, class): of captions with the class in place of the trigger the network shall say what it says
               without its LoRA, so that the class needs no pictures of its own; None: there is no such target
    before     within whose block the networks are as before the training: of pictures of the class, and of pictures
               whose caption is left out although there is a trigger, the network shall say what it said then, and not
               what they show; None: what they show
    """

    def __init__(
        self,
        parts: ModelParts,
        learner: Learner,
        found: Sequence[Found],
        latents: Latents,
        objective: Objective,
        *,
        batch_size: int,
        seed: int,
        held: Sequence[int] = (),
        text_rate: float | None = None,
        checkpointing: bool = False,
        preserved: tuple[str, str] | None = None,
        before: Callable[[], AbstractContextManager[None]] | None = None,
        trigger: str = "",
    ) -> None:
        self.preserved, self.before, self.trigger = preserved, before, trigger
        self.parts, self.learner, self.found, self.latents, self.objective = parts, learner, found, latents, objective
        self.held, self.text_rate = list(held), text_rate
        self.device = next(parts.unet.parameters()).device
        self.modules = learner.modules
        self.group = Group()
        self.precision: Enter = nullcontext
        self.conditions = Conditions(parts, trained=learner.trains_text, words=learner.words)
        seen = [place for place in range(len(found)) if place not in set(self.held)]
        self.batches = Batches(found, seen, batch_size, seed)
        own = [place for place in seen if not found[place].subset.is_reg]
        self.reported = {"seen": own[:: max(len(own) // MAX_REPORTED, 1)][:MAX_REPORTED]}
        self.reported_errors: dict[str, list[float]] = {}  # of each of these pictures, in the last report
        if self.held:
            self.reported["held"] = self.held[:MAX_REPORTED]
        self.checkpointing = checkpointing
        if checkpointing:
            checkpoint_blocks(parts.unet)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return self.learner.groups(learning_rate, learning_rate if self.text_rate is None else self.text_rate)

    @property
    def unet(self) -> nn.Module:
        """What a step calls: the model's UNet, or one that is parted over processes and learns in its place."""
        return self.modules.get("unet", self.parts.unet)

    def networks(self) -> list[nn.Module]:
        return [self.unet]

    def loss(self, step: int, batch_size: int, seed: int) -> tuple[Tensor, Figures]:
        """Of the rows of the batch that are this process's; their mean over the processes is that of all rows."""
        places = self.batches(step)
        generator = generator_for(seed, step, 2)
        rng = random.Random(f"{seed} {step} captions")
        flips = [self.found[place].subset.flip and rng.random() < 0.5 for place in places]
        captions = [self._caption(place, rng) for place in places]
        encoded = [self.latents[place, flip] for place, flip in zip(places, flips, strict=True)]
        means, stds = torch.stack([one.mean for one in encoded]), torch.stack([one.std for one in encoded])
        latents = means + stds * torch.randn(means.shape, generator=generator)
        times = self.objective.draw_times(len(places), generator)
        eps = self.objective.draw_noise(latents, generator)
        more = self.draw_more(len(places), generator)
        own = list(range(self.group.rank, len(places), self.group.size))
        share = len(own) * self.group.size / len(places)
        if not own and is_parted(next(self.unet.parameters())):
            own = [0]  # a network in parts is called by all processes at once; this row counts nothing
        if not own:
            nothing = torch.zeros((), device=self.device)
            return nothing, {"loss": nothing} | ({} if self.preserved is None else {"drift": nothing})
        self.learner.begin_step(seed, step, own, len(places))
        errors = self.errors(
            [places[row] for row in own],
            [flips[row] for row in own],
            [captions[row] for row in own],
            latents[own],
            eps[own],
            times[own],
            **{name: value[own] for name, value in more.items()},
        )
        is_reg = torch.tensor([self.found[places[row]].subset.is_reg for row in own])
        loss = self.objective.loss(errors, times[own], is_reg)
        figures: dict[str, Tensor | float] = {"loss": loss.detach()}
        if self.preserved is not None:
            some = [places[row] for row in own], [flips[row] for row in own], [captions[row] for row in own]
            drifted = self.drift(*some, latents[own], eps[own], times[own]).mean()
            loss, figures["drift"] = loss + self.objective.prior_weight * drifted, drifted.detach()
        if self.group.size > 1:
            loss, figures = loss * share, {name: value * share for name, value in figures.items()}
        return loss, figures

    def _caption(self, place: int, rng: random.Random) -> str:
        """What a step asks of a picture: its caption, or of one of the class, if the answer is the aim, another's."""
        if self.before is not None and self.found[place].subset.is_reg and rng.random() < OTHERS_CAPTION:
            place = rng.choice(self.batches.reg)
        one = self.found[place]
        return one.subset.captions.at_random(one.example.caption, rng)

    def put_text_away(self) -> bool:
        """Give back the memory of the text encoders, if steps and reports ask for captions that are all known now.

        From then on nothing else can be encoded, so no pictures can be drawn. -> whether it was done
        """
        rules = [one.subset.captions for one in self.found]
        if self.learner.trains_text or any(one.shuffle or one.tag_dropout for one in rules):
            return False
        captions = {one.subset.captions.whole(one.example.caption) for one in self.found} | {""}
        if self.preserved is not None:
            captions |= {_in_place(caption, *self.preserved) for caption in captions}
        if len(captions) > MAX_KEPT:
            return False
        self.conditions.put_away(sorted(captions))
        return True

    def draw_more(self, count: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """What else is random in a step: a row for each picture, for `errors`."""
        return {}

    def errors(
        self,
        places: Sequence[int],
        flips: Sequence[bool],
        captions: Sequence[str],
        latents: Tensor,
        eps: Tensor,
        times: Tensor,
    ) -> Tensor:
        """The network's error for each row.  latents, eps [B, C, h, w] and times [B] on the CPU -> [B]"""
        latents, eps = latents.to(self.device), eps.to(self.device)
        x = self.objective.noisy(latents, eps, times)
        kept = [row for row in range(len(places)) if self._stays(places[row], captions[row])]
        wanted: Tensor | None = None
        if kept and self.before is not None:
            some = [places[row] for row in kept], [flips[row] for row in kept], [captions[row] for row in kept]
            with torch.no_grad(), self.before():
                wanted = self.predict(*some, x[kept], times[kept])
        output = self.predict(places, flips, captions, x, times)
        errors = self.objective.errors(output, latents, eps, times, self._masks(places, flips, latents))
        if wanted is None:
            return errors
        gaps = (output[kept].to(x.dtype) - wanted.to(x.dtype)).square().mean(dim=(1, 2, 3))
        return errors.index_put((torch.tensor(kept, device=errors.device),), gaps)

    def _stays(self, place: int, caption: str) -> bool:
        """Whether a row has nothing of what is learned."""
        return self.found[place].subset.is_reg or bool(self.trigger and not caption)

    def predict(
        self, places: Sequence[int], flips: Sequence[bool], captions: Sequence[str], x: Tensor, times: Tensor
    ) -> Tensor:
        """What the UNet says of noisy latents x [B, C, h, w] on the device."""
        sizes = [sizes_of(self.found[p], flip=flip) for p, flip in zip(places, flips, strict=True)]
        return self.answers(captions, sizes, x, times, self.hints_of(places, flips))

    def hints_of(self, places: Sequence[int], flips: Sequence[bool]) -> Tensor | None:
        """What the UNet looks at beside the captions of these pictures."""
        return None

    def answers(
        self, captions: Sequence[str], sizes: Sequence[Sizes], x: Tensor, times: Tensor, hint: Tensor | None = None
    ) -> Tensor:
        """What the UNet says of noisy latents x [B, C, h, w], which need be no pictures of the data set.

        hint [B, 3, H, W] in [0, 1]: what a ControlNet looks at; None: the UNet draws alone
        """
        x, times = x.contiguous(memory_format=torch.channels_last), times.to(self.device)
        dtype = next(self.unet.parameters()).dtype
        with self.precision(), keeping_less(not self.checkpointing):
            context, added = self.conditions(captions, sizes)
            control = None if hint is None else self.steering(x, times, context, added, hint)
            output: Tensor = self.unet(
                x.to(dtype),
                times,
                context.to(dtype),
                None if added is None else added.to(dtype),
                control=None if control is None else [one.to(dtype) for one in control],
            )
        return output

    def steering(
        self, x: Tensor, times: Tensor, context: Tensor, added: Tensor | None, hint: Tensor
    ) -> Sequence[Tensor]:
        """What a ControlNet adds to the UNet."""
        raise NotImplementedError

    def drift(
        self,
        places: Sequence[int],
        flips: Sequence[bool],
        captions: Sequence[str],
        latents: Tensor,
        eps: Tensor,
        times: Tensor,
    ) -> Tensor:
        """How far the class has moved from what it is without the LoRA; 0 of captions without the trigger.  -> [B]"""
        assert self.preserved is not None and isinstance(self.learner, LoraLearner)
        plain = [_in_place(caption, *self.preserved) for caption in captions]
        moved = torch.tensor([one != caption for one, caption in zip(plain, captions, strict=True)], device=self.device)
        x = self.objective.noisy(latents.to(self.device), eps.to(self.device), times)
        with torch.no_grad(), self.learner.factors.off():
            wanted = self.predict(places, flips, plain, x, times)
        said = self.predict(places, flips, plain, x, times)
        gaps = (said.to(x.dtype) - wanted.to(x.dtype)).square().mean(dim=(1, 2, 3))
        return gaps * moved

    def _masks(self, places: Sequence[int], flips: Sequence[bool], latents: Tensor) -> Tensor | None:
        masks = [self.latents[place, flip].mask for place, flip in zip(places, flips, strict=True)]
        if all(mask is None for mask in masks):
            return None
        whole = torch.ones(1, *latents.shape[2:])
        return torch.stack([whole if mask is None else mask for mask in masks]).to(latents)

    @torch.no_grad()
    def report(self, modules: Mapping[str, nn.Module]) -> dict[str, float]:
        """Errors at fixed timesteps with fixed noise, of pictures that are trained on ("seen") and others ("held")."""
        figures: dict[str, float] = {}
        times = quantile_times(self.objective.schedule, REPORTED_TIMES)
        for kind, places in self.reported.items():
            errors = torch.stack([self._fixed_errors(place, times) for place in places])
            self.reported_errors[kind] = errors.mean(dim=1).tolist()
            means = errors.mean(dim=0)
            figures |= {f"{kind}_{time}": float(mean) for time, mean in zip(times, means, strict=True)}
            figures[kind] = float(means.mean())
        return figures

    def _fixed_errors(self, place: int, times: Sequence[int]) -> Tensor:
        """Of one picture at each timestep, as many at a time as a step has.  -> [T] on the CPU"""
        one = self.found[place]
        latents = self.latents[place, False].mean[None]
        caption = one.subset.captions.whole(one.example.caption)
        errors = []
        for first in range(0, len(times), self.batches.batch_size):
            some = times[first : first + self.batches.batch_size]
            eps = torch.cat([torch.randn(latents.shape, generator=generator_for(FIXED, place, t)) for t in some])
            rows = len(some)
            drawn = latents.expand(rows, -1, -1, -1), eps, torch.tensor(some)
            errors.append(self.errors([place] * rows, [False] * rows, [caption] * rows, *drawn).float().cpu())
        return torch.cat(errors)


def _in_place(caption: str, trigger: str, word: str) -> str:
    """A caption with a word in place of the trigger, whatever its case."""
    return trigger_pattern(trigger).sub(lambda _: word, caption)


def checkpoint_blocks(unet: nn.Module) -> None:
    """Blocks keep only their inputs for the backward pass and compute again there (Chen et al. 2016, 1604.06174)."""
    for module in unet.modules():
        if isinstance(module, CHECKPOINTED):
            # A partial is copied with its module.
            module.forward = partial(_again, type(module).forward, module)  # type: ignore[method-assign]


def _again(forward: Callable[..., Any], *args: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args)
    return checkpoint(forward, *args, use_reentrant=False)
