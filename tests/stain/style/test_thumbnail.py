from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.synthetic import GLASS, he_image, write_tiff
from wsigen.errors import SlideError
from wsigen.geometry import Region, Size
from wsigen.slide.mask import Mask
from wsigen.slide.read import open_slide
from wsigen.stain.style.network import Encoder, feature_stats
from wsigen.stain.style.thumbnail import (
    Thumbnail,
    compare_stains,
    read_thumbnail,
    stain_stats,
    thumbnail_mpps,
)


@dataclass(frozen=True)
class Extent:
    """A slide of which nothing but its extent is asked."""

    size: Size
    mpp: float
    path: Path = Path("slide")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder(width=4).eval().requires_grad_(False)


def picture(path, image, mpp=0.5):
    return open_slide(write_tiff(path, image, mpp, levels=1, compression="zstd"))


def test_both_thumbnails_have_the_same_scale_where_sizes_allow():
    large, small = Extent(Size(8192, 8192), 0.5), Extent(Size(4096, 2048), 0.5)
    assert thumbnail_mpps((large, small)) == (4.0, 4.0)  # the larger slide becomes 1024 px
    assert thumbnail_mpps((small, large)) == (4.0, 4.0)


def test_a_small_reference_is_not_read_smaller_than_256_px():
    whole, field = Extent(Size(65536, 65536), 0.25), Extent(Size(1024, 1024), 0.25)
    assert thumbnail_mpps((whole, field)) == (16.0, 1.0)


def test_nothing_is_enlarged():
    coarse, fine = Extent(Size(128, 128), 2.0), Extent(Size(512, 512), 0.25)
    assert thumbnail_mpps((coarse, fine)) == (2.0, 0.25 * 2)
    assert thumbnail_mpps((fine, fine)) == (0.25, 0.25)


def test_number_of_pixels_is_bounded_for_any_shape():
    ribbon = Extent(Size(200_000, 500), 0.5)
    (mpp,) = thumbnail_mpps((ribbon,))
    assert ribbon.size.area * (ribbon.mpp / mpp) ** 2 == pytest.approx(1024**2)


def test_thumbnail_keeps_the_aspect_and_averages_areas(tmp_path):
    image = he_image((256, 512), seed=1)
    thumbnail = read_thumbnail(picture(tmp_path / "a.tif", image), 2.0)
    expected = image.reshape(64, 4, 128, 4, 3).mean(axis=(1, 3))
    assert thumbnail.image.shape == (64, 128, 3)
    assert np.abs(thumbnail.image - expected).max() <= 0.5 + 1e-6
    assert thumbnail.tissue.shape == (64, 128)
    assert 0.1 < thumbnail.tissue.mean() < 0.95


def test_statistics_of_all_tissue_are_those_of_the_features(encoder):
    image = he_image((64, 96), seed=2)
    found = stain_stats(encoder, Thumbnail(image, np.ones((64, 96), bool), 1.0))
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    direct = encoder(x).double()
    torch.testing.assert_close(found.mean.double(), direct.mean(dim=(2, 3)))
    variance = direct.var(dim=(2, 3), correction=0) + 1e-5
    torch.testing.assert_close(found.std.double(), variance.sqrt())


def test_glass_does_not_count(encoder):
    image, tissue = he_image((128, 64), seed=3), np.zeros((128, 64), bool)
    tissue[:64] = True
    found = stain_stats(encoder, Thumbnail(image, tissue, 1.0))
    x = torch.from_numpy(image).permute(2, 0, 1)[None] / 127.5 - 1
    upper = feature_stats(encoder(x)[:, :, :8])
    torch.testing.assert_close(found.mean, upper.mean)
    torch.testing.assert_close(found.std, upper.std)


@pytest.mark.parametrize("shape", [(61, 83), (5, 40), (1, 1)])
def test_padding_to_whole_features_does_not_count(encoder, shape):
    image = np.full((*shape, 3), 150, np.uint8)
    found = stain_stats(encoder, Thumbnail(image, np.ones(shape, bool), 1.0))
    x = torch.full((1, 3, 64, 64), 150 / 127.5 - 1)
    torch.testing.assert_close(found.mean, feature_stats(encoder(x)).mean)
    torch.testing.assert_close(found.std, torch.full((1, 32), 1e-5**0.5), atol=1e-6, rtol=1e-3)


def test_a_wide_margin_of_glass_hardly_moves_the_statistics(encoder, tmp_path):
    tissue = he_image(512, seed=4, mpp=0.5)
    wide = np.full((1024, 1024, 3), GLASS, np.uint8)
    wide[256:768, 256:768] = tissue
    narrow_stats, wide_stats = (
        stain_stats(encoder, read_thumbnail(picture(tmp_path / f"{i}.tif", image), 2.0))
        for i, image in enumerate((tissue, wide))
    )
    unmasked = [
        feature_stats(encoder(torch.from_numpy(image[::4, ::4].copy()).permute(2, 0, 1)[None] / 127.5 - 1))
        for image in (tissue, wide)
    ]
    masked_change = (narrow_stats.mean - wide_stats.mean).norm()
    assert masked_change < 0.2 * (unmasked[0].mean - unmasked[1].mean).norm()


def test_tissue_outside_a_mask_does_not_count(encoder, tmp_path):
    """Of the slide to be changed; the reference has no mask."""
    bluer = np.clip(he_image(256, seed=5) * np.array([0.7, 0.85, 1.0]) + 20, 0, 255).astype(np.uint8)
    image = np.concatenate([he_image(256, seed=4), bluer], axis=1)
    content = picture(tmp_path / "a.tif", image)
    reference = picture(tmp_path / "b.tif", he_image(256, seed=6))
    left = Mask(content.size, Region(0, 0, 256, 256))
    mine, wanted = compare_stains(encoder, content, reference, left)
    whole = read_thumbnail(content, 0.5)
    tissue = whole.tissue.copy()
    tissue[:, 256:] = False
    assert whole.tissue[:, 256:].any()
    torch.testing.assert_close(mine.mean, stain_stats(encoder, Thumbnail(image, tissue, 0.5)).mean)
    other, same = compare_stains(encoder, content, reference)
    assert not torch.allclose(other.mean, mine.mean, rtol=1e-4)
    torch.testing.assert_close(same.mean, wanted.mean)


def test_reference_without_tissue_is_refused(encoder, tmp_path):
    content = picture(tmp_path / "a.tif", he_image(256, seed=5))
    blank = picture(tmp_path / "blank.tif", he_image(256, tissue=False))
    with pytest.raises(SlideError, match=r"blank\.tif: holds no tissue"):
        compare_stains(encoder, content, blank)


def test_content_without_tissue_is_told_and_stays_finite(encoder, tmp_path, caplog):
    blank = picture(tmp_path / "blank.tif", he_image(256, tissue=False))
    mine, wanted = compare_stains(encoder, blank, picture(tmp_path / "b.tif", he_image(256, seed=5)))
    assert "no tissue found" in caplog.text
    assert all(torch.isfinite(t).all() for s in (mine, wanted) for t in (s.mean, s.std))


def test_very_different_extents_are_told(encoder, tmp_path, caplog):
    large = picture(tmp_path / "large.tif", he_image(512, seed=6, mpp=40.0), 40.0)
    small = picture(tmp_path / "small.tif", he_image(256, seed=5))
    compare_stains(encoder, large, small)
    assert "extents differ, so" in caplog.text
