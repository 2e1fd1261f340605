"""One slide in the stain of another, as a network with nothing left to measure.

Statistics come from thumbnails, once; after that the map is the same everywhere, so that tiles with a halo
give what the whole slide would (Chen et al. 2022, thumbnail instance normalisation).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from wsigen.stain.style.adain import ChannelMap, FeatureStats, adain_map, feature_stats
from wsigen.stain.style.network import StyleModel


class LikeReference(nn.Module):
    """Encoder, AdaIN with constant statistics, decoder.

    Args:
        model: encoder and decoder; shared, not copied.
        content: statistics of one image, the slide to be changed.
        style: statistics of one image, the reference.
        strength: of the transfer, in [0, 1].

    Attributes:
        config: of the model.
        stride: tiles start at, and have sides of, multiples of this many pixels.
        halo: real pixels that a tile needs around it.

    Determinism:
        An output pixel depends on the ``halo`` pixels around it alone.
    """

    def __init__(
        self, model: StyleModel, content: FeatureStats, style: FeatureStats, strength: float = 1.0
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.config, self.stride, self.halo = model.config, model.stride, model.halo
        moved = adain_map(content, style, strength)
        self.register_buffer("scale", moved.scale)
        self.register_buffer("shift", moved.shift)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [-1, 1] in the reference's stain; sides are multiples of 8 and at least 16."""
        assert isinstance(self.scale, Tensor)
        assert isinstance(self.shift, Tensor)
        return self.decoder(ChannelMap(self.scale, self.shift)(self.encoder(x)))


class LikePictures(nn.Module):
    """Encoder, AdaIN with each picture's own statistics, decoder: for whole pictures, as in training.

    Args:
        model: encoder and decoder; shared, not copied.
        style: statistics of one image, or of several together.
    """

    def __init__(self, model: StyleModel, style: FeatureStats) -> None:
        super().__init__()
        self.encoder, self.decoder = model.encoder, model.decoder
        self.style = style

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Images in [-1, 1] in the style's stain; sides are multiples of 8 and at least 16."""
        features = self.encoder(x)
        return self.decoder(adain_map(feature_stats(features), self.style)(features))
