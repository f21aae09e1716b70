"""UNet with cross-attention that predicts noise or velocity (Rombach et al. 2022, arXiv:2112.10752, section 3.3).

Shapes: B batch, C channels of the latents, H W rows and columns of the latents, L tokens, D context_dim,
A added_dim, E = 4 * channels[0].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesso.nn.attention import SpatialTransformer, TransformerBlock, of_text
from gesso.nn.embedding import EmbeddingMLP, guidance_sinusoid, sinusoid
from gesso.nn.resblock import ResBlock, Upsample, silu_of

EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    in_channels: int
    out_channels: int
    channels: tuple[int, ...]  # per level, finest first
    attention: tuple[int, ...]  # transformer blocks after each residual block of a level; 0: none
    mid_attention: int  # the same in the middle; 0: one residual block alone (small ControlNets of SDXL)
    num_heads: tuple[int, ...]  # per level; the middle takes the last
    num_res_blocks: int  # per level on the way down; one more on the way up
    context_dim: int
    added_dim: int | None = None  # width of a vector added to the time embedding (SDXL: pooled text and sizes)
    draft_size: int | None = None  # rows and columns of gesso-mini's draft, a first guess from the text; None: without
    norm_groups: int = 32
    cross_only: tuple[bool, ...] | None = None  # levels whose self-attention is cross-attention, too; None: no level
    noise_levels: int | None = (
        None  # noise levels of the input picture that a table embeds (x4 upscaler; diffusers: num_class_embeds)
    )
    guidance_dim: int | None = (
        None  # width of the guidance scale embedding of a distilled model (LCM; diffusers: time_cond_proj_dim)
    )
    upcast_attention: bool = False  # attention scores in float32 (SD 2.1)


def _transformer(config: UNetConfig, level: int, depth: int, *, cross_only: bool) -> SpatialTransformer:
    return SpatialTransformer(
        config.channels[level],
        config.num_heads[level],
        config.context_dim,
        depth,
        config.norm_groups,
        cross_only=cross_only,
        upcast=config.upcast_attention,
    )


def _level_transformers(config: UNetConfig, level: int, count: int) -> nn.ModuleList:
    """One after each of `count` residual blocks of a level; none where the level does not look at the text."""
    depth = config.attention[level]
    cross_only = config.cross_only is not None and config.cross_only[level]
    return nn.ModuleList(
        _transformer(config, level, depth, cross_only=cross_only) for _ in range(count if depth else 0)
    )


class Draft(nn.Module):
    """A first guess at the latents from the text alone: a query for each patch of places asks the tokens.

    context [B, L, D] -> [B, C, size, size]. No release of Stable Diffusion has it; docs/decisions/default-model.md says
    what it is for.
    """

    PATCH = 2  # rows and columns that one query answers for

    def __init__(self, channels: int, size: int, context_dim: int, num_heads: int) -> None:
        super().__init__()
        if size % self.PATCH:
            raise ValueError(f"draft_size {size}: expected a multiple of {self.PATCH}")
        self.side = size // self.PATCH
        self.queries = nn.Parameter(nn.init.normal_(torch.empty(self.side**2, context_dim)))
        self.block = TransformerBlock(context_dim, num_heads, context_dim)
        self.norm = nn.LayerNorm(context_dim)
        self.out = nn.Linear(context_dim, channels * self.PATCH**2)

    def forward(self, context: Tensor) -> Tensor:
        patches = self.out(self.norm(self.block(self.queries.expand(len(context), -1, -1), context)))
        return F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, (self.side, self.side)), self.PATCH)


class DownLevel(nn.Module):
    """Residual blocks, each with a transformer where the level has them, then half the size unless last."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        channels = config.channels[level]
        before = config.channels[max(level - 1, 0)]
        self.blocks = nn.ModuleList(
            ResBlock(
                before if i == 0 else channels,
                channels,
                4 * config.channels[0],
                norm_groups=config.norm_groups,
                eps=EPS,
            )
            for i in range(config.num_res_blocks)
        )
        self.attentions = _level_transformers(config, level, config.num_res_blocks)
        if level < len(config.channels) - 1:
            self.downsample: nn.Module | None = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        else:
            self.downsample = None

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, feature: Tensor | None = None) -> list[Tensor]:
        """Every output that the way up will want, in order.

        feature: joins the last transformer's output, or in a level without any the last output of all.
        """
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(x, emb)
            if self.attentions:
                x = self.attentions[i](x, context)
                if feature is not None and i == len(self.blocks) - 1:
                    x = x + feature
            outputs.append(x)
        if self.downsample is not None:
            outputs.append(self.downsample(x))
        if feature is not None and not self.attentions:
            outputs[-1] = outputs[-1] + feature
        return outputs

    def first(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        """The first residual block alone, with its transformer."""
        x = self.blocks[0](x, emb)
        return self.attentions[0](x, context) if self.attentions else x


class Middle(nn.Module):
    """Residual block, transformer, residual block at the coarsest level; the first alone without a transformer."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        channels, emb_dim, groups = config.channels[-1], 4 * config.channels[0], config.norm_groups
        self.block1 = ResBlock(channels, channels, emb_dim, norm_groups=groups, eps=EPS)
        self.attention: SpatialTransformer | None = None
        self.block2: ResBlock | None = None
        if config.mid_attention:
            self.attention = _transformer(config, -1, config.mid_attention, cross_only=False)
            self.block2 = ResBlock(channels, channels, emb_dim, norm_groups=groups, eps=EPS)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        x = self.block1(x, emb)
        if self.attention is not None and self.block2 is not None:
            x = self.block2(self.attention(x, context), emb)
        return x


class UpLevel(nn.Module):
    """Residual blocks over what came from below and a skip, then twice the size unless it is the finest."""

    def __init__(self, config: UNetConfig, level: int) -> None:
        super().__init__()
        channels = config.channels[level]
        below = config.channels[min(level + 1, len(config.channels) - 1)]
        # What the way down left behind, last first: num_res_blocks outputs of this level, then one of the level above.
        skips = [channels] * config.num_res_blocks + [config.channels[max(level - 1, 0)]]
        self.blocks = nn.ModuleList(
            ResBlock(
                (below if i == 0 else channels) + skip,
                channels,
                4 * config.channels[0],
                norm_groups=config.norm_groups,
                eps=EPS,
            )
            for i, skip in enumerate(skips)
        )
        self.attentions = _level_transformers(config, level, config.num_res_blocks + 1)
        self.upsample = Upsample(channels) if level > 0 else None

    def forward(
        self, x: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor, deep: list[Tensor] | None = None
    ) -> Tensor:
        """Takes its skips from the end of the list.  deep: is given what enters the last two blocks"""
        for i in range(len(self.blocks)):
            if deep is not None and i == len(self.blocks) - 2:
                deep.append(x)
            x = self._block(i, x, skips, emb, context)
        if self.upsample is not None:
            height, width = skips[-1].shape[-2:]
            x = self.upsample(x, (height, width))
        return x

    def last(self, x: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor) -> Tensor:
        """The last two blocks of the finest level alone."""
        for i in range(len(self.blocks) - 2, len(self.blocks)):
            x = self._block(i, x, skips, emb, context)
        return x

    def _block(self, i: int, x: Tensor, skips: list[Tensor], emb: Tensor, context: Tensor) -> Tensor:
        x = self.blocks[i](torch.cat([x, skips.pop()], dim=1), emb)
        return self.attentions[i](x, context) if self.attentions else x


class UNet(nn.Module):
    """Noisy latents, time and text to the prediction."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        first, levels = config.channels[0], range(len(config.channels))
        self.time_embed = EmbeddingMLP(first, 4 * first)
        self.added_embed = EmbeddingMLP(config.added_dim, 4 * first) if config.added_dim else None
        self.level_embed = nn.Embedding(config.noise_levels, 4 * first) if config.noise_levels else None
        self.guidance_embed = nn.Linear(config.guidance_dim, first, bias=False) if config.guidance_dim else None
        if config.draft_size is None:
            self.draft = None
            channels_in = config.in_channels
        else:
            self.draft = Draft(config.out_channels, config.draft_size, config.context_dim, config.num_heads[-1])
            channels_in = config.in_channels + config.out_channels
        self.conv_in = nn.Conv2d(channels_in, first, 3, padding=1)
        self.down = nn.ModuleList(DownLevel(config, level) for level in levels)
        self.mid = Middle(config)
        self.up = nn.ModuleList(UpLevel(config, level) for level in reversed(levels))  # in the order they run
        self.norm_out = nn.GroupNorm(config.norm_groups, first, eps=EPS)
        self.conv_out = nn.Conv2d(first, config.out_channels, 3, padding=1)

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        added: Tensor | None = None,
        level: Tensor | None = None,
        guidance: Tensor | None = None,
        control: Sequence[Tensor] | None = None,
        window: Tensor | None = None,
        features: Sequence[Tensor] | None = None,
        deep: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B, C, H, W], timestep [B] (fractions allowed), context [B, L, D], added [B, A] -> [B, out_channels, H, W]

        level [B] int64: noise level of the picture in the extra channels, for a model with `noise_levels`.
        guidance [B]: the guidance scale, for a guidance-distilled model (`guidance_dim`).
        control: residuals of a ControlNet for each skip connection, and last for the middle block.
        features: of a T2I-Adapter, added to each down level, and, one more, to the middle block.
        window int64 [B, 4]: x is part of a larger whole, from this row and column on of so many; the draft is of the
        whole. All rows have the same.
        deep: features of the deeper levels, which change slowly over the steps (DeepCache, Ma et al. 2024,
        arXiv:2312.00858). An empty list is given them; one that has them spares computing them: of the finest level the
        first block on the way down and the last two on the way up are left. Not with `control` or `features`.
        Raises ValueError where one of the last three is given to a model without it, or missing in a model with it.
        """
        if (added is None) != (self.added_embed is None):
            raise ValueError(
                f"added vector {'missing' if added is None else 'given'}, added_dim {self.config.added_dim}"
            )
        if (level is None) != (self.level_embed is None):
            problem = "missing" if level is None else "given"
            raise ValueError(f"noise level {problem}, noise_levels {self.config.noise_levels}")
        if (guidance is None) != (self.guidance_embed is None):
            problem = "missing" if guidance is None else "given"
            raise ValueError(f"guidance {problem}, guidance_dim {self.config.guidance_dim}")
        time = sinusoid(timestep, self.config.channels[0]).to(x.dtype)
        if self.guidance_embed is not None and guidance is not None:
            time = time + self.guidance_embed(guidance_sinusoid(guidance, self.guidance_embed.in_features).to(x.dtype))
        emb = self.time_embed(time)
        if self.added_embed is not None:
            emb = emb + self.added_embed(added)
        if self.level_embed is not None:
            emb = emb + self.level_embed(level)
        if self.draft is not None:
            x = torch.cat([x, self._guess(context, x, window)], dim=1)
        x = self.conv_in(x)
        skips = [x]
        if deep:
            down, up = self.down[0], self.up[-1]
            assert isinstance(down, DownLevel)
            assert isinstance(up, UpLevel)
            return self._out(up.last(deep[0], [x, down.first(x, emb, context)], emb, context))
        joining = [*features] if features is not None else []
        for down in self.down:
            skips.extend(down(skips[-1], emb, context, joining.pop(0) if joining else None))
        x = self.mid(skips[-1], emb, context)
        if joining:
            x = x + joining.pop(0)
        if joining:
            raise ValueError(f"{len(features or ())} features, this UNet takes at most {len(self.down) + 1}")
        if control is not None:
            skips = [skip + extra for skip, extra in zip(skips, control[:-1], strict=True)]
            x = x + control[-1]
        for up in self.up:
            x = up(x, skips, emb, context, deep if up is self.up[-1] else None)
        return self._out(x)

    def _out(self, x: Tensor) -> Tensor:
        return self.conv_out(silu_of(self.norm_out, x))

    def _guess(self, context: Tensor, x: Tensor, window: Tensor | None) -> Tensor:
        """The draft at the size of x, or that part of it which x is."""
        assert self.draft is not None
        guess, (height, width) = of_text(self.draft, context, self.draft), x.shape[-2:]
        top, left, *size = (0, 0, height, width) if window is None else window[0].tolist()
        if list(guess.shape[-2:]) != size:  # another size than the native one
            guess = F.interpolate(guess, size=size, mode="bilinear")
        return guess[..., top : top + height, left : left + width]
