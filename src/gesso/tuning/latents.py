"""Latents of the pictures, encoded once and kept on disk under everything that changes them.

A key is a hash of the file's bytes, the VAE's weights, where the picture is scaled and cropped, mirrored or not, and
how it is computed. So a picture that was edited, or another VAE, never meets old latents. Files appear whole or not at
all, a damaged one is made again, and the least recently used go when the cache grows over its limit.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.errors import GessoError
from gesso.files import atomic_file
from gesso.models.vae import AutoencoderKL
from gesso.tuning.survey import Found, framed, read_example

VERSION = 1  # of how pictures become latents
LIMIT = 8 * 2**30  # bytes of the cache


@dataclass(frozen=True, eq=False)
class Encoded:
    """One picture as the training sees it: mean and std [C, h, w] of the VAE's posterior, scaled; mask [1, h, w]."""

    mean: Tensor
    std: Tensor
    mask: Tensor | None


def weights_digest(network: nn.Module) -> str:
    """A hash of the numbers of a network."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()


class LatentCache:
    """Encodes pictures with a VAE, or finds them encoded.

    folder  None: nothing is kept on disk
    The VAE is on its device, in the dtype in which it encodes.
    """

    def __init__(self, vae: AutoencoderKL, folder: Path | None, *, masks: bool = True, limit: int = LIMIT) -> None:
        self.vae, self.folder, self.masks, self.limit = vae, folder, masks, limit
        self._vae_digest = weights_digest(vae)
        self.encoded = 0  # pictures that were not there
        self.used: list[Path] = []

    def key(self, one: Found, flip: bool) -> str:
        """What the latents of a picture are kept under."""
        placed, parameter = one.framing, next(self.vae.parameters())
        facts = [
            VERSION,
            one.digest,
            self._vae_digest,
            self.vae.config.scaling_factor,
            placed.bucket,
            placed.scaled,
            (placed.left, placed.top),
            flip,
            str(parameter.dtype),
            parameter.device.type,
            one.subset.use_alpha and self.masks,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def __call__(self, one: Found, flip: bool) -> Encoded:
        """The latents of a picture, float32 on the CPU. Raises GessoError where the file cannot be read any more."""
        if self.folder is None:
            return self._encode(one, flip)
        key = self.key(one, flip)
        path = self.folder / key[:2] / f"{key}.safetensors"
        self.used.append(path)
        if (kept := self._read(path)) is not None:
            return kept
        fresh = self._encode(one, flip)
        tensors = {"mean": fresh.mean, "std": fresh.std} | ({} if fresh.mask is None else {"mask": fresh.mask})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path) as file:
                file.write(save(tensors))
        except OSError as error:
            raise GessoError(
                f"{path.parent}: latents cannot be kept ({error.strerror}). Choose another `cache`",
                code="unwritable",
                data={"path": str(path)},
            ) from error
        return fresh

    def _read(self, path: Path) -> Encoded | None:
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            tensors = load(data)
            kept = Encoded(tensors["mean"], tensors["std"], tensors.get("mask"))
        except (SafetensorError, KeyError, ValueError):
            return None  # damaged: made again
        with suppress(OSError):  # the time of its last use
            os.utime(path)
        return kept

    @torch.no_grad()
    def _encode(self, one: Found, flip: bool) -> Encoded:
        self.encoded += 1
        image, mask = read_example(one.example, use_alpha=self.masks and one.subset.use_alpha, use_mask=self.masks)
        if image.size != one.size:
            raise GessoError(
                f"{one.example.path}: changed since it was looked at. Start again",
                code="changed",
                data={"path": str(one.example.path)},
            )
        parameter = next(self.vae.parameters())
        pixels = torch.from_numpy(np.asarray(framed(image, one.framing, flip=flip)).copy()).permute(2, 0, 1)
        pixels = (pixels[None].float() / 127.5 - 1).to(parameter)
        posterior = self.vae.encode(pixels.contiguous(memory_format=torch.channels_last))
        mean, std = posterior.mean[0].float().cpu().contiguous(), posterior.std[0].float().cpu().contiguous()
        if not mean.isfinite().all():
            raise GessoError(
                f"{one.example.path}: the VAE's latents are not finite in {parameter.dtype}. Use float32",
                code="not_finite",
                data={"path": str(one.example.path)},
            )
        return Encoded(mean, std, None if mask is None else _mask(framed(mask, one.framing, flip=flip), mean))

    def trim(self) -> int:
        """Remove the least recently used files over the limit, none that this run uses. -> bytes removed"""
        if self.folder is None or not self.folder.is_dir():
            return 0
        files = []
        for path in self.folder.glob("??/*.safetensors"):
            with suppress(OSError):
                state = path.stat()
                files.append((state.st_mtime_ns, state.st_size, path))
        total, removed, used = sum(size for _, size, _ in files), 0, set(self.used)
        for _, size, path in sorted(files):
            if total - removed <= self.limit:
                break
            if path not in used:
                with suppress(OSError):
                    path.unlink()
                    removed += size
        return removed


def _mask(mask: object, latents: Tensor) -> Tensor:
    """Grey levels as shares of each place of the latents, [1, h, w] from 0 to 1."""
    levels = torch.from_numpy(np.asarray(mask).copy()).float()[None, None] / 255
    return F.interpolate(levels, size=latents.shape[-2:], mode="area")[0]


def encode_all(
    cache: LatentCache,
    found: Sequence[Found],
    *,
    on_picture: Callable[[int, int], None] = lambda done, of: None,
) -> dict[tuple[int, bool], Encoded]:
    """The latents of every picture, by its place and whether it is mirrored."""
    wanted = [
        (place, flip) for place, one in enumerate(found) for flip in ((False, True) if one.subset.flip else (False,))
    ]
    encoded = {}
    for number, (place, flip) in enumerate(wanted):
        encoded[place, flip] = cache(found[place], flip)
        on_picture(number + 1, len(wanted))
    cache.trim()
    return encoded
