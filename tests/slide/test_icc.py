"""Colours by the ICC profile of the file, in every kind of file."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from tests.synthetic import write_tiff
from wsigen.errors import SlideError
from wsigen.geometry import Region
from wsigen.slide.read import open_slide
from wsigen.slide.view import View

SRGB = View(icc="srgb")
PART = Region(100, 200, 300, 400)


def _swapped() -> bytes:
    """sRGB with the primaries of red and green exchanged, so that no conversion can be missed."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    places = {bytes(data[p : p + 4]): p for p in range(132, 132 + 12 * count, 12)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


PROFILE = _swapped()


@pytest.fixture(params=["tif", "png", "svs"])
def path(request, tmp_path, he_picture):
    path = tmp_path / f"a.{request.param}"
    if request.param == "png":
        Image.fromarray(he_picture).save(path, icc_profile=PROFILE)
        return path
    text = "Aperio Image Library v11\n1024x1024 (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
    tifffile.imwrite(
        path,
        he_picture,
        photometric="rgb",
        tile=(256, 256),
        metadata=None,
        iccprofile=PROFILE,
        description=text if request.param == "svs" else None,
    )
    return path


def test_colours_are_those_of_the_profile_only_if_asked_for(path, he_picture):
    plain = open_slide(path, 0.5).read_region(PART, 0.5)
    np.testing.assert_array_equal(plain, he_picture[100:400, 200:600])
    got = open_slide(path, 0.5, SRGB).read_region(PART, 0.5)
    assert np.abs(got.astype(int) - plain[..., [1, 0, 2]]).max() <= 2
    assert np.abs(got.astype(int) - plain).mean() > 5


@pytest.mark.parametrize("kind", ["assocalpha", "unassalpha"])
def test_the_background_keeps_its_colour_where_the_file_is_transparent(tmp_path, kind):
    alpha = np.full((64, 64), 255, np.uint8)
    alpha[:20], alpha[20:40] = 0, 128
    colour = np.array([(180, 90, 30)]) * (alpha[..., None] / 255 if kind == "assocalpha" else 1)
    rgba = np.dstack([np.broadcast_to(np.rint(colour), (64, 64, 3)), alpha]).astype(np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, rgba, photometric="rgb", extrasamples=[kind], metadata=None, iccprofile=PROFILE, tile=(64, 64)
    )
    got = open_slide(path, 0.5, SRGB).read_region(Region(0, 0, 64, 64), 0.5, (10, 200, 30)).astype(int)
    assert (got[:20] == (10, 200, 30)).all()
    share = 128 / 255
    want = np.array((90, 180, 30)) * share + np.array((10, 200, 30)) * (1 - share)
    assert np.abs(got[20:40] - want).max() <= 3
    assert np.abs(got[40:] - (90, 180, 30)).max() <= 2


def test_a_file_without_a_profile_is_refused(tmp_path, he_picture):
    path = write_tiff(tmp_path / "a.tif", he_picture, 0.5)
    with pytest.raises(SlideError, match="has no ICC profile to convert its colours by; leave out --icc"):
        open_slide(path, view=SRGB)


@pytest.mark.parametrize("profile", [b"damaged" * 30, "lab"])
def test_a_profile_of_no_use_is_refused(tmp_path, he_picture, profile):
    if profile == "lab":
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    data = io.BytesIO()
    Image.fromarray(he_picture[:64, :64]).save(data, "PNG", icc_profile=profile)
    (tmp_path / "a.png").write_bytes(data.getvalue())
    with pytest.raises(SlideError, match="its ICC profile cannot be used"):
        open_slide(tmp_path / "a.png", 0.5, SRGB)
