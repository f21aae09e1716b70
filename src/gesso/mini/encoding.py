"""Training of the VAE's encoder alone, for pictures that the decoder was not trained on.

A style LoRA changes the UNet, never the decoder: what the decoder cannot draw, the style cannot show. An encoder that
has learned to look for the latents from which this decoder draws the style best gives the LoRA a better aim. It is used
in training only and never shipped.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from gesso.mini.autoencoder import AutoencoderTask
from gesso.mini.pictures import Pictures
from gesso.models.vae import AutoencoderKL


class EncoderTask(AutoencoderTask):
    """The autoencoder's loss, of which only the encoder learns. Freezes the decoder."""

    def __init__(
        self, vae: AutoencoderKL, pictures: Pictures, *, kl_weight: float, decoder_noise: float, report_pictures: int
    ) -> None:
        super().__init__(
            vae, pictures, kl_weight=kl_weight, decoder_noise=decoder_noise, report_pictures=report_pictures
        )
        vae.decoder.requires_grad_(False)
        vae.post_quant_conv.requires_grad_(False)
        self.modules: Mapping[str, nn.Module] = {"encoder": vae.encoder, "quant_conv": vae.quant_conv}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return [{"params": [p for module in self.modules.values() for p in module.parameters()], "lr": learning_rate}]
