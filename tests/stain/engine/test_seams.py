"""No seams: tiles give the bits of the whole image, and the field has no step where patches meet."""

from __future__ import annotations

import numpy as np
import pytest

from tests.stain.translations import generator, texture, translate
from wsigen.evaluation.seams import seam_ratio
from wsigen.stain.engine.stream import Norm

PITCH = 96


@pytest.mark.parametrize("family", ["cut", "urust"])
def test_dense_normalisation_has_no_seam_and_patchwise_has(family):
    image, net = texture(768, seed=2), generator(family, width=4, blocks=2, seed=2)
    assert seam_ratio(image, PITCH) < 1.05
    (whole,) = translate([net], image, pitch=PITCH, tile=4096)
    (tiled,) = translate([net], image, pitch=PITCH, tile=PITCH * 2, chop=100)
    (alone,) = translate([net], image, pitch=PITCH, norm=Norm("in"))
    one_piece, dense, patchwise = (seam_ratio(out, PITCH) for out in (whole, tiled, alone))
    assert abs(dense - one_piece) <= 0.01
    assert abs(seam_ratio(tiled, 2 * PITCH) - seam_ratio(whole, 2 * PITCH)) <= 0.01
    assert dense <= 1.05
    assert patchwise > 1.15


@pytest.mark.parametrize(("norm", "tiles"), [("dn", (512, 768, 1024)), ("kin", (512,)), ("tin", (768,))])
def test_tiles_of_published_sizes_are_the_whole_image_bit_for_bit(norm, tiles):
    image, net = texture(820, 1100), generator(width=3, blocks=0)
    (whole,) = translate([net], image, norm=Norm(norm), tile=4096)
    for tile in tiles:
        np.testing.assert_array_equal(translate([net], image, norm=Norm(norm), tile=tile)[0], whole)


@pytest.mark.parametrize("family", ["cut", "cyclegan", "urust"])
def test_tiles_of_nine_blocks_are_the_whole_image_bit_for_bit(family):
    image, net = texture(290, 426), generator(family, blocks=9)
    (whole,) = translate([net], image, pitch=128, tile=4096)
    (tiled,) = translate([net], image, pitch=128, tile=128)
    np.testing.assert_array_equal(tiled, whole)
