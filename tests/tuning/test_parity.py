"""Loss and gradients of one step beside diffusers and PEFT: the same weights, pictures, captions, noise and timesteps.

In float64, where both agree to rounding; the limit is 1e-5 of the largest number. Both use one table of the schedule:
diffusers multiplies its own in float32, which alone is 1.3e-5 off.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gesso.adapters.names import Target
from gesso.checkpoints import keymap
from gesso.families.base import Family
from gesso.families.saving import folder_rules
from gesso.tuning.conditions import sizes_of
from gesso.tuning.layer_factors import Factors, KroneckerFactors, LayerFactors, MagnitudeFactors
from gesso.tuning.settings import TuningSettings
from gesso.tuning.task import TuningTask
from tiny_sd import TINY_SD, TINY_SD21, TINY_SDXL, save_tiny_folder
from tuning.made import double, found, made_task

LIMIT = 1e-5
CAPTIONS = ["a photo of sks dog", "sks dog, red, in the snow", ""]
UNET = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "net.0.proj", "net.2"]
RESIDUAL = ["conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
PARTS = {"unet": "unet", "text": "text_encoder", "text_2": "text_encoder_2"}


def theirs(family: Family, folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers

        kind = diffusers.StableDiffusionXLPipeline if family.text_2 else diffusers.StableDiffusionPipeline
        others = {} if family.text_2 else {"safety_checker": None, "feature_extractor": None}
        return kind.from_pretrained(folder, **others).to(torch.float64)


def config_for(settings: TuningSettings, modules: list[str], ranks: dict[str, int]) -> Any:
    """PEFT's settings for ours. ranks: by their names, where they are not all the same"""
    import peft

    if settings.algorithm == "lokr":
        return peft.LoKrConfig(
            r=settings.rank, alpha=settings.alpha, target_modules=modules, decompose_factor=settings.lokr_factor or -1
        )
    others = {name: rank for name, rank in ranks.items() if rank != settings.rank}
    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        target_modules=modules,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
        rank_pattern=others,
        alpha_pattern={name: settings.alpha * rank / settings.rank for name, rank in others.items()},
    )


def pairs_of(layer: Any, factors: LayerFactors) -> list[tuple[Tensor, Tensor]]:
    """Our parameters and PEFT's of one layer."""
    if isinstance(factors, MagnitudeFactors):
        magnitude = layer.lora_magnitude_vector["default"].weight
        return [*pairs_of(layer, factors.inner), (factors.magnitude, magnitude)]
    if isinstance(factors, KroneckerFactors):
        return [(ours, getattr(layer, f"lokr_{name}")["default"]) for name, ours in factors.named_parameters()]
    return [(factors.down, layer.lora_A["default"].weight), (factors.up, layer.lora_B["default"].weight)]


def adapt(pipe: Any, task: TuningTask, settings: TuningSettings) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """PEFT's adapters with our numbers -> our parameters and theirs by our names."""
    pytest.importorskip("peft")
    family = task.parts.family
    target = Target(family.name, family.layout, task.parts.networks)
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for ours, name in PARTS.items():
        if not any(one.partition(".")[0] == ours for one, _ in task.learner.factors.items()):
            continue
        network = getattr(pipe, name)
        network.requires_grad_(False)
        modules = (UNET + (RESIDUAL if settings.conv_rank else [])) if ours == "unet" else TEXT
        known = dict(network.named_modules())
        dotted: dict[str, LayerFactors] = {}
        for full, factors in task.learner.factors.items():
            component, _, module = full.partition(".")
            if component == ours:
                own = target.dotted_of(component, module).partition(".")[2]
                # Newer releases of transformers name the parts of a text encoder without a prefix.
                own = own if own in known else own.removeprefix("text_model.")
                dotted[own] = factors
                pairs[full] = []
        ranks = {own: one.down.shape[0] for own, one in dotted.items() if isinstance(one, Factors)}
        network.add_adapter(config_for(settings, modules, ranks))
        layers = dict(network.named_modules())
        assert {key for key, layer in layers.items() if hasattr(layer, "base_layer")} == dotted.keys()  # none more
        names = [full for full in task.learner.factors.names.values() if full.partition(".")[0] == ours]
        for full, (own, factors) in zip(names, dotted.items(), strict=True):
            pairs[full] = pairs_of(layers[own], factors)
            with torch.no_grad():
                for mine, peer in pairs[full]:
                    peer.copy_(mine.reshape(peer.shape))
    return pairs


def their_loss(
    pipe: Any,
    task: TuningTask,
    latents: Tensor,
    eps: Tensor,
    times: Tensor,
    gamma: float,
    captions: list[str] = CAPTIONS,
) -> Tensor:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    family = task.parts.family
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    scheduler.alphas_cumprod = task.objective.schedule.alphas_cumprod
    noisy = scheduler.add_noise(latents, eps, times)
    conditions: dict[str, Any] = {}
    with torch.set_grad_enabled(task.learner.trains_text):
        if family.text_2 is not None:
            context, _, pooled, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False, device="cpu")
            empty = torch.tensor([not caption for caption in captions])
            context = context.masked_fill(empty[:, None, None], 0)  # as SDXL was trained; their script does not
            pooled = pooled.masked_fill(empty[:, None], 0)
            sizes = [sizes_of(one, flip=False) for one in task.found]
            ids = torch.tensor([[*size.original, *size.crop, *size.target] for size in sizes], dtype=torch.float64)
            conditions["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
        else:
            context, _ = pipe.encode_prompt(captions, "cpu", 1, False)
    output = pipe.unet(noisy, times, context, **conditions).sample
    is_v = family.prediction == "v"
    target = scheduler.get_velocity(latents, eps, times) if is_v else eps
    errors = (output - target).square().mean(dim=(1, 2, 3))
    if gamma:
        snr = compute_snr(scheduler, times)
        weights = torch.stack([snr, gamma * torch.ones_like(times)], dim=1).min(dim=1)[0]
        errors = errors * (weights / (snr + 1) if is_v else weights / snr)
    return errors.mean()


CASES = {
    "SD 1.5": (TINY_SD, TuningSettings(rank=4, alpha=6.0)),
    "SD 1.5 with text, convolutions and min-SNR": (
        TINY_SD,
        TuningSettings(rank=4, alpha=2.0, conv_rank=4, conv_alpha=2.0, train_text=True, min_snr=5.0),
    ),
    "SD 2.1": (TINY_SD21, TuningSettings(rank=4, alpha=4.0, min_snr=5.0)),
    "SDXL": (TINY_SDXL, TuningSettings(rank=4, alpha=1.0)),
    "DoRA with convolutions": (TINY_SD, TuningSettings(rank=4, alpha=2.0, conv_rank=4, conv_alpha=2.0, dora=True)),
    "rank-stabilised, by block": (
        TINY_SD,
        TuningSettings(rank=4, alpha=2.0, rslora=True, block_ranks=("down.1=2", "up=8")),
    ),
    "LoKr with text and convolutions": (
        TINY_SD,
        TuningSettings(
            rank=4, alpha=2.0, conv_rank=4, conv_alpha=2.0, algorithm="lokr", lokr_factor=2, train_text=True
        ),
    ),
}


QUICK = (
    "SD 1.5 with text, convolutions and min-SNR",
    "SDXL",
    "DoRA with convolutions",
    "LoKr with text and convolutions",
)


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
)
@pytest.mark.sampled(4)
def test_loss_and_gradients(case: str, tmp_path: Path) -> None:
    family, settings = CASES[case]
    task = made_task(double(family), found(CAPTIONS, bucket=(128, 128)), settings)
    pipe = theirs(family, save_tiny_folder(tmp_path / "model", family))
    pairs = adapt(pipe, task, settings)
    assert len(pairs) == len(task.learner.factors.layers)
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(3, 4, 16, 16, generator=generator, dtype=torch.float64)
    eps, times = torch.randn(3, 4, 16, 16, generator=generator, dtype=torch.float64), torch.tensor([17, 981, 500])

    errors = task.errors([0, 1, 2], [False] * 3, CAPTIONS, latents, eps, times)
    loss = task.objective.loss(errors, times)
    loss.backward()
    expected = their_loss(pipe, task, latents, eps, times, settings.min_snr)
    expected.backward()

    assert abs(loss.item() / expected.item() - 1) < LIMIT
    grads = {
        (name, place): (ours.grad.reshape(peer.shape), peer.grad)
        for name, both in pairs.items()
        for place, (ours, peer) in enumerate(both)
    }
    # A norm over one channel takes the time away: such gradients are rounding in both.
    least = 1e-9 * sum(float(peer.norm()) ** 2 for _, peer in grads.values()) ** 0.5
    gaps = {key: float((ours - peer).norm() / peer.norm().clamp(min=least)) for key, (ours, peer) in grads.items()}
    worst = max(gaps, key=lambda key: gaps[key])
    assert gaps[worst] < LIMIT, f"{worst}: {gaps[worst]:.1e}"
    assert sum(float(peer.norm()) > least for _, peer in grads.values()) > 0.8 * len(grads)


def drawn_at_random() -> tuple[Tensor, Tensor, Tensor]:
    """Latents, noise and timesteps of three pictures."""
    generator = torch.Generator().manual_seed(3)
    latents, eps = torch.randn(2, 3, 4, 16, 16, generator=generator, dtype=torch.float64)
    return latents, eps, torch.tensor([17, 981, 500])


@pytest.mark.parametrize("family", [TINY_SD, pytest.param(TINY_SDXL, marks=pytest.mark.slow)], ids=lambda one: one.name)
def test_all_weights(family: Family, tmp_path: Path) -> None:
    """Every gradient of the UNet and of the text encoders."""
    settings = TuningSettings(kind="full", train_text=True, caption_dropout=0.0)
    task = made_task(double(family), found(CAPTIONS, bucket=(128, 128)), settings)
    pipe = theirs(family, save_tiny_folder(tmp_path / "model", family))
    drawn = drawn_at_random()
    loss = task.objective.loss(task.errors([0, 1, 2], [False] * 3, CAPTIONS, *drawn), drawn[2])
    loss.backward()
    expected = their_loss(pipe, task, *drawn, 0.0)
    expected.backward()
    assert abs(loss.item() / expected.item() - 1) < LIMIT
    compared = 0
    for ours, name in PARTS.items():
        if ours not in task.learner.modules:
            continue
        network = task.learner.modules[ours]
        grads = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
        known = {key: p.grad for key, p in getattr(pipe, name).named_parameters() if p.grad is not None}
        renamed = keymap.save(folder_rules(family)[ours], grads)
        whole = torch.cat([grad.flatten() for grad in known.values()]).norm()
        for key, grad in renamed.items():
            peer = known.get(key, known.get(key.removeprefix("text_model.")))
            if peer is None:
                assert float(grad.norm()) < 1e-9 * whole, key  # what nothing reads has no gradient
                continue
            assert float((grad - peer).norm()) < LIMIT * max(float(peer.norm()), 1e-9 * float(whole)), key
            compared += 1
    assert compared > 100


def test_vectors_of_an_embedding(tmp_path: Path) -> None:
    """The gradient of each vector is that of its row in diffusers' table."""
    settings = TuningSettings(kind="embedding", trigger="<my-dog>", vectors=3, init="dog", caption_dropout=0.0)
    captions = ["a photo of <my-dog>", "<my-dog>, red, in the snow", "<my-dog>"]
    task = made_task(double(TINY_SD), found(captions, bucket=(128, 128)), settings)
    (vectors,) = task.modules["vectors"].parameters()
    pipe = theirs(TINY_SD, save_tiny_folder(tmp_path / "model", TINY_SD))
    pipe.load_textual_inversion({"<my-dog>": vectors.detach().clone()}, token="<my-dog>")
    table = pipe.text_encoder.get_input_embeddings().weight
    drawn = drawn_at_random()
    loss = task.objective.loss(task.errors([0, 1, 2], [False] * 3, captions, *drawn), drawn[2])
    loss.backward()
    expected = their_loss(pipe, task, *drawn, 0.0, captions)
    expected.backward()
    assert abs(loss.item() / expected.item() - 1) < LIMIT
    assert vectors.grad is not None and table.grad is not None
    torch.testing.assert_close(vectors.grad, table.grad[-3:], rtol=LIMIT, atol=1e-12)
    assert all(p.grad is None for network in task.parts.networks.values() for p in network.parameters())
