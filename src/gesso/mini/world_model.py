"""Trains the default model on composed scenes, stage by stage, and exports it as one file.

The stages: "autoencoder", "judge" (which measures the model and never teaches it), "denoising".
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from gesso.checkpoints.native import save_native
from gesso.families.base import Family, FamilyDefaults, ScheduleConfig
from gesso.families.gesso_mini import config_of
from gesso.files import atomic_file
from gesso.mini.default_model import fast_convolutions
from gesso.mini.denoising import initialise_text, initialise_unet
from gesso.mini.drawing_table import ALPHA_CHANNELS, encode_drawings
from gesso.mini.judging.scene_judge import INPUT_SIZE, JudgeConfig, JudgeTask, SceneJudge
from gesso.mini.scene_pool import Captions, Phase, ScenePictures, ScenePool, Shape
from gesso.mini.scene_tasks import SceneAutoencoderTask, SceneDenoisingTask
from gesso.models.clip import CLIPTextConfig, CLIPTextModel
from gesso.models.object_memory import MemoryConfig
from gesso.models.unet import UNet, UNetConfig
from gesso.models.vae import AutoencoderKL, VAEConfig
from gesso.text.lexicon import Lexicon
from gesso.text.tokenizer import Tokenizer, learn_vocabulary
from gesso.training.loop import Plan, fit, load_average, save_atomically
from gesso.training.precision import TrainingPrecision
from gesso.training.task import Task
from gesso.world.caption import Captioner, all_words
from gesso.world.compositor import Compositor
from gesso.world.drawings import Drawings
from gesso.world.objects import Thing, plural_of
from gesso.world.sampler import BROAD_MIX, FULL_MIX, LAST_MIX, Mix, SceneSampler, Shapes, shapes_of
from gesso.world.scene import LOOKS

M = TypeVar("M", bound=nn.Module)
Stage = Literal["autoencoder", "judge", "denoising"]
STAGES: tuple[Stage, ...] = get_args(Stage)
OnLog = Callable[[dict[str, float]], None]
SQUARE: Shape = (256, 256)


@dataclass(frozen=True, kw_only=True)
class WorldRecipe:
    """Everything that defines a training of the default model."""

    name: str
    device: str
    vae: VAEConfig  # its scaling factor is measured after its training
    vae_kl_weight: float
    vae_decoder_noise: float
    unet: UNetConfig
    text_dim: int
    text_layers: int
    text_heads: int
    text_length: int
    memory_side: int | None  # rows and columns of a drawing in the object memory; None: no memory
    memory_slots: int
    judge_sizes: JudgeConfig  # num_things follows from the objects
    autoencoder: Plan
    judge: Plan
    denoising: Plan
    broad_share: float  # of the denoising's samples that see BROAD_MIX
    full_share: float  # that see FULL_MIX after them; the rest sees LAST_MIX
    expected_samples: int  # of the denoising, that the shares are of
    shapes: tuple[Shape, ...]  # of the denoising's segments in turn; the first is the native one, a square
    pool_size: int
    pool_passes: int
    vocabulary: int
    precision: TrainingPrecision | Literal["auto"]
    compile: bool
    workers: int
    block: int  # pictures composed at a time for networks that see pixels
    report_pictures: int
    save_every: float
    report_every: float
    defaults: FamilyDefaults

    def family(self, tokenizer: Tokenizer, objects: tuple[Thing, ...], scaling_factor: float) -> Family:
        """The model that comes out."""
        return Family(
            name="gesso-mini",
            unet=self.unet,
            vae=replace(self.vae, scaling_factor=scaling_factor),
            text=CLIPTextConfig(
                vocab_size=tokenizer.size,
                max_length=self.text_length,
                dim=self.text_dim,
                num_layers=self.text_layers,
                num_heads=self.text_heads,
                mlp_dim=4 * self.text_dim,
                activation="quick_gelu",
                eos_id=tokenizer.eos,
                memory=self._memory(len(objects)),
            ),
            prediction="v",
            schedule=ScheduleConfig(beta_start=0.00085, beta_end=0.012, num_timesteps=1000, zero_terminal_snr=True),
            native_size=self.shapes[0][0],
            defaults=self.defaults,
            objects={thing.name: _other_names(thing) for thing in objects},
        )

    def _memory(self, objects: int) -> MemoryConfig | None:
        if self.memory_side is None:
            return None
        return MemoryConfig(
            objects=objects,
            looks=len(LOOKS),
            patches=self.memory_side**2,
            memory_channels=self.vae.latent_channels + ALPHA_CHANNELS,
            slots=self.memory_slots,
        )


def _other_names(thing: Thing) -> tuple[str, ...]:
    """What else the object is called, in the singular and in the plural."""
    return (*dict.fromkeys((thing.plural, *thing.synonyms, *map(plural_of, thing.synonyms))),)


_OTHERS: tuple[Shape, ...] = ((192, 320), (320, 192), (320, 320), (384, 192), (192, 384))

GPU = WorldRecipe(
    name="gpu",
    device="cuda",
    vae=VAEConfig(channels=(64, 128, 192), num_res_blocks=1, latent_channels=16, scaling_factor=1.0, patch_size=4),
    vae_kl_weight=0.05,
    vae_decoder_noise=0.2,
    unet=UNetConfig(
        in_channels=16,
        out_channels=16,
        channels=(96, 192, 288),
        attention=(1, 1, 1),
        mid_attention=1,
        num_heads=(3, 6, 9),
        num_res_blocks=1,
        context_dim=256,
        added_dim=256,
    ),
    text_dim=256,
    text_layers=3,
    text_heads=8,
    text_length=40,
    memory_side=8,
    memory_slots=3,
    judge_sizes=JudgeConfig(num_things=0),
    autoencoder=Plan(
        batch_size=64,
        minutes=2.8,
        learning_rate=2e-3,
        warmup_samples=10_000,
        decay_share=0.5,
        ema_decay=0.998,
    ),
    judge=Plan(
        batch_size=128,
        minutes=0.8,
        learning_rate=2e-3,
        warmup_samples=10_000,
        decay_share=0.6,
        ema_decay=0.995,
    ),
    denoising=Plan(
        batch_size=512,
        minutes=7,
        learning_rate=2e-3,
        warmup_samples=50_000,
        decay_share=0.4,
        ema_decay=0.999,
    ),
    broad_share=0.25,
    full_share=0.45,
    expected_samples=5_000_000,
    shapes=tuple(shape for other in _OTHERS for shape in (*(SQUARE,) * 7, other)),
    pool_size=16_384,
    pool_passes=12,
    vocabulary=4096,
    precision="bfloat16",
    compile=True,
    workers=14,
    block=4096,
    report_pictures=256,
    save_every=200.0,
    report_every=100.0,
    defaults=FamilyDefaults(num_steps=20, guidance_scale=3.5, sampler="dpmpp_2m", schedule="sgm_uniform"),
)


# The same networks for a CPU: hours for what takes a GPU minutes. Batches are small, since steps are what it lacks.
CPU = replace(
    GPU,
    name="cpu",
    device="cpu",
    autoencoder=replace(GPU.autoencoder, batch_size=8, minutes=120, warmup_samples=1_000),
    judge=replace(GPU.judge, batch_size=16, minutes=60, warmup_samples=2_000),
    denoising=replace(GPU.denoising, batch_size=64, minutes=600, warmup_samples=4_000),
    expected_samples=1_000_000,
    pool_size=2_048,
    pool_passes=8,
    precision="auto",
    compile=False,
    workers=0,
    block=256,
    report_pictures=64,
    save_every=180.0,
    report_every=600.0,
)
RECIPES = {recipe.name: recipe for recipe in (CPU, GPU)}


def rehearsal(recipe: WorldRecipe, device: str, steps: int = 3, batch_size: int = 4) -> WorldRecipe:
    """The same networks for a few steps of a few pictures."""

    def short(plan: Plan) -> Plan:
        return replace(plan, batch_size=batch_size, total_samples=steps * batch_size, minutes=None, warmup_samples=1)

    return replace(
        recipe,
        device=device,
        autoencoder=short(recipe.autoencoder),
        judge=short(recipe.judge),
        denoising=short(recipe.denoising),
        expected_samples=steps * batch_size,
        shapes=(SQUARE, _OTHERS[0]),
        pool_size=batch_size if batch_size < 16 else 16 * batch_size,
        pool_passes=1 if batch_size < 16 else 8,
        precision="float32" if device == "cpu" else recipe.precision,
        compile=recipe.compile and device != "cpu",
        workers=min(recipe.workers, 2 if batch_size < 16 else 4),
        block=2 * batch_size,
        report_pictures=min(batch_size, 32),
    )


class WorldModel:
    """One training of the default model in one folder, with a subfolder per stage."""

    def __init__(self, recipe: WorldRecipe, folder: Path, objects: tuple[Thing, ...], drawings: Drawings) -> None:
        self.recipe, self.folder, self.objects, self.drawings = recipe, folder, objects, drawings
        self.device = torch.device(recipe.device)
        words = all_words(objects)
        self.tokenizer: Tokenizer = learn_vocabulary(words, recipe.vocabulary, length=recipe.text_length)
        self.captions = Captions(Captioner(objects), self.tokenizer)

    @cached_property
    def compositor(self) -> Compositor:
        symbols = np.array(["symbol" in thing.tags for thing in self.objects])
        return Compositor(self.drawings.pixels, self.device, self.drawings.present, symbols)

    def train(
        self,
        stage: Stage,
        *,
        stop_after: float = float("inf"),
        on_log: OnLog,
        start: Path | None = None,
        compile_when: Callable[[], bool] | None = None,
    ) -> None:
        """Run one stage, or go on with it. Raises GessoError if an earlier stage lacks.

        start         weights by `save_weights` that a new run begins with; the optimiser begins anew
        compile_when  asked at each line of the log until it says yes; the networks are compiled then and not before
        """
        recipe = self.recipe
        torch.manual_seed(0)  # start values only; a checkpoint replaces them
        task: Task
        if stage == "autoencoder":
            task = SceneAutoencoderTask(
                self._place(AutoencoderKL(recipe.vae)),
                self._pictures(),
                kl_weight=recipe.vae_kl_weight,
                decoder_noise=recipe.vae_decoder_noise,
                report_pictures=recipe.report_pictures,
            )
        elif stage == "judge":
            judge = self._place(SceneJudge(replace(recipe.judge_sizes, num_things=len(self.objects))))
            pictures = self._pictures((INPUT_SIZE, INPUT_SIZE))
            task = JudgeTask(judge, pictures, _RoundTrip(self._vae_average()), recipe.report_pictures)
        else:
            task = self._denoising()
        for name, weights in _by_module(start).items() if start else ():
            task.modules[name].load_state_dict(weights)
        waiting = compile_when

        def logged(row: dict[str, float]) -> None:
            nonlocal waiting
            if waiting is not None and waiting():
                waiting = None
                for network in task.networks():
                    network.compile(dynamic=False)
            on_log(row)

        with fast_convolutions(self.device):
            fit(
                task,
                getattr(recipe, stage),
                self.folder / stage,
                device=self.device,
                precision=recipe.precision,
                # The judge is done before a compiler would be.
                compiled=recipe.compile and stage != "judge" and compile_when is None,
                save_every=recipe.save_every,
                report_every=recipe.report_every,
                stop_after=stop_after,
                measure_after=15.0,
                on_log=logged,
            )

    def family(self) -> Family:
        """The model as far as its first stage decides it: the scaling factor makes latents of unit deviation."""
        path = self.folder / "scaling.json"
        if not path.exists():
            vae = self._vae_average()
            pictures = self._pictures()
            pixels = pictures.pixels(pictures.scenes(4 * self.recipe.report_pictures, 10**9))
            with torch.no_grad():
                latents = torch.cat([vae.encode(part).mean for part in pixels.split(32)])
            with atomic_file(path) as file:  # several processes find the same
                file.write(json.dumps({"factor": round(1 / float(latents.std()), 5)}).encode())
        return self.recipe.family(self.tokenizer, self.objects, json.loads(path.read_text())["factor"])

    def save_weights(self, stage: Stage, path: Path) -> None:
        """Write the averaged weights of a stage in half precision, to go on from elsewhere with `load_weights`."""
        average = load_average(self.folder / stage)
        save_file(
            {f"{m}.{n}": value.half().contiguous() for m, part in average.items() for n, value in part.items()}, path
        )

    def load_weights(self, stage: Stage, path: Path) -> None:
        """Take a stage as done, by the weights of `save_weights`."""
        average = _by_module(path)
        (self.folder / stage).mkdir(parents=True, exist_ok=True)
        save_atomically({"average": average}, self.folder / stage / "last.pt")

    def export(self, path: Path, modelspec: dict[str, str]) -> Family:
        """Write the averaged weights of all stages as one file of half precision."""
        family = self.family()
        denoising = load_average(self.folder / "denoising")
        save_native(
            path,
            {"unet": denoising["unet"], "text": denoising["text"], "vae": self._vae_average().state_dict()},
            config_of(family),
            self.tokenizer.to_json(),
            {"resolution": f"{family.output_size}x{family.output_size}", **modelspec},
        )
        return family

    @cached_property
    def _shapes(self) -> Shapes:
        return shapes_of(self.drawings.pixels, self.drawings.present, self.objects)

    def _sampler(self, mix: Mix) -> SceneSampler:
        return SceneSampler(self.objects, mix, shapes=self._shapes)

    def _pictures(self, shape: Shape | None = None) -> ScenePictures:
        recipe, sampler = self.recipe, self._sampler(FULL_MIX)
        shape = shape or recipe.shapes[0]
        return ScenePictures(sampler, self.compositor, shape, workers=recipe.workers, block=recipe.block)

    def _denoising(self) -> SceneDenoisingTask:
        family, recipe = self.family(), self.recipe
        unet, text = UNet(family.unet), CLIPTextModel(family.text)
        initialise_unet(unet)
        initialise_text(text)
        vae = self._vae_average()
        vae.config = family.vae
        lexicon = None
        if text.memory is not None:
            text.memory.table.data = encode_drawings(vae, self.drawings, text.memory.config)
            nn.init.constant_(text.memory.look.bias[:1], 2.0)  # the look where no style is named
            lexicon = Lexicon.of(self.tokenizer, family.objects)
        phases = [
            Phase(int(recipe.broad_share * recipe.expected_samples), self._sampler(BROAD_MIX)),
            Phase(int(recipe.full_share * recipe.expected_samples), self._sampler(FULL_MIX)),
            Phase(0, self._sampler(LAST_MIX)),
        ]
        pool = ScenePool(
            vae.requires_grad_(False),
            self.captions,
            self.compositor,
            phases,
            shapes=recipe.shapes,
            size=recipe.pool_size,
            passes=recipe.pool_passes,
            workers=recipe.workers,
        )
        return SceneDenoisingTask(
            self._place(unet),
            self._place(text),
            pool,
            family.schedule.build(),
            family.prediction,
            num_things=len(self.objects),
            report_pictures=recipe.report_pictures,
            lexicon=lexicon,
        )

    def _vae_average(self) -> AutoencoderKL:
        vae = AutoencoderKL(self.recipe.vae)
        vae.load_state_dict(load_average(self.folder / "autoencoder")["vae"])
        return self._place(vae).eval()

    def _place(self, module: M) -> M:
        return module.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _by_module(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What `WorldModel.save_weights` wrote, in float32."""
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in load_file(path).items():
        module, _, name = key.partition(".")
        weights.setdefault(module, {})[name] = value.float()
    return weights


class _RoundTrip(nn.Module):
    """Pictures as an autoencoder gives them back."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae.requires_grad_(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.vae.decode(self.vae.encode(pixels).mean)
