"""A decoder for stain transfer by example (Huang & Belongie 2017, eq. 11):

    λ_c L_c + λ L_s + λ_p L_sp + λ_r |D(E(x)) − x|

The encoder stays as it is. Only a new one learns, where there are no weights, and from the last term alone,
which is there for it: the others would be least for an encoder that sees nothing. With URST's stroke
perceptual loss L_sp (Chen et al. 2022) the content's statistics are those of a thumbnail, in training as in
use, and the painted patch is compared with the painted thumbnail.
"""

from __future__ import annotations

import torch
from jaxtyping import UInt8
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, l1_loss

from wsigen.config.style import AdainConfig
from wsigen.nn.images import to_unit
from wsigen.stain.losses.style import content_loss, stroke_loss, style_loss
from wsigen.stain.style.network import LikePictures, StyleModel, adain_map, feature_stats
from wsigen.stain.style.weights import NEW, untrained_style
from wsigen.training.loop import Scalars
from wsigen.training.processes import Processes, frozen
from wsigen.training.stain.method import Batch, Method


class Adain(Method):
    """Training of a style decoder; the source is painted in the target's stain, pair by pair.

    Args:
        config: the run.
        processes: of the run.

    Raises:
        SnapshotError: the encoder's weights could not be loaded.
    """

    def __init__(self, config: AdainConfig, processes: Processes) -> None:
        super().__init__(processes)
        self.loss = config.loss
        low, high = config.data.mpp_range
        net = untrained_style(config.encoder, width=config.encoder_width, seed=config.seed)
        net.register_to_config(mpp=low if low == high else None, mpp_range=(low, high))
        self.generator, self.encoder = net, net.encoder
        self.nets = nn.ModuleDict({"style": net})
        self.new = config.encoder == NEW
        learning = [p for p in net.parameters() if p.requires_grad]
        self.optimizers = {"style": torch.optim.Adam(learning, lr=config.optim.lr, betas=config.optim.betas)}
        self.encode, self.decode, self.features = net.encoder, net.decoder, net.encoder.features

    def compile(self) -> None:
        """Compile the networks."""
        parts = (self.encode, self.decode, self.features)
        self.encode, self.decode, self.features = (
            torch.compile(part, **self.processes.compile_options) for part in parts
        )

    def update(self, batch: Batch) -> Scalars:
        """One step of the decoder, and of the encoder if it is new."""
        # a new encoder could make both losses small by features that see nothing: it learns to reconstruct
        with self.processes.autocast(), frozen(self.encoder):
            losses = self._losses(batch)
        if self.new:
            with self.processes.autocast():
                losses["reconstruction"] = self._reconstruction(torch.cat([batch.source, batch.target]))
        weighted = [getattr(self.loss, f"lambda_{name}") * value for name, value in losses.items()]
        total = torch.stack(weighted).sum()
        self.processes.apply(total, self.optimizers["style"])
        return {name: value.detach() for name, value in {"loss": total, **losses}.items()}

    def _losses(self, batch: Batch) -> Scalars:
        with torch.no_grad():
            style = self.features(batch.target)
            content = self.encode(batch.source)
            thumbnail = self._thumbnail(batch.source)
            seen = content if thumbnail is None else self.encode(thumbnail)
            move = adain_map(feature_stats(seen), feature_stats(style[-1]))
            target = move(content)
        painted = self.decode(target)
        found = self.features(painted)
        units = self._units(style)
        losses = {
            "content": content_loss(found[-1] / units[-1], target / units[-1]),
            "style": style_loss(_divided(found, units), _divided(style, units)),
        }
        if thumbnail is not None:
            with torch.no_grad():
                painted_thumbnail = self.decode(move(seen))  # the target of the stroke loss
            losses["stroke"] = stroke_loss(lambda x: [self.encode(x)], painted, painted_thumbnail)
        return losses

    def _units(self, style: list[Tensor]) -> list[Tensor]:
        """What the features of each layer are measured in: their own size, if the encoder may choose it."""
        return [f.float().square().mean().sqrt() if self.new else f.new_ones(()) for f in style]

    def _reconstruction(self, x: Tensor) -> Tensor:
        return l1_loss(self.decode(self.encode(x)).float(), x)

    def _thumbnail(self, source: Tensor) -> Tensor | None:
        """The source with areas averaged; None without the stroke loss."""
        return avg_pool2d(source, self.loss.thumbnail) if self.loss.lambda_stroke else None

    @torch.no_grad()
    def translator(self, net: nn.Module, target: UInt8[Tensor, "n 3 h w"]) -> nn.Module:
        """A network that paints each picture in the stain of all the target pictures together."""
        assert isinstance(net, StyleModel)
        device = next(net.parameters()).device
        features = [net.encoder(to_unit(x.to(device))).float() for x in target.split(4)]
        # statistics over all pictures, not a mean of each picture's
        together = torch.cat([f.transpose(0, 1).flatten(1) for f in features], dim=1)
        return LikePictures(net, feature_stats(together[None, :, :, None]))


def _divided(features: list[Tensor], units: list[Tensor]) -> list[Tensor]:
    return [f / unit for f, unit in zip(features, units, strict=True)]
