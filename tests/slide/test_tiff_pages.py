"""Which image of a TIFF is the slide, and which pages are its levels."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile

from tests.synthetic import reduce_by, write_tiff
from wsigen.errors import AmbiguousSlideError, InvalidValueError, SlideError
from wsigen.geometry import Region, Size
from wsigen.slide.read import open_slide
from wsigen.slide.view import View

RED, GREEN, BLUE = -16776961, 16711935, 65535
"""OME's Color of opaque primaries."""


def _scale(mpp):
    return {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}


def _write(path, *pages):
    """Write pages of (image, µm/px or None, options)."""
    with tifffile.TiffWriter(path) as tiff:
        for image, mpp, options in pages:
            scale = _scale(mpp) if mpp else {}
            tiff.write(image, photometric="rgb", metadata=None, **scale, **options)
    return path


def _whole(slide):
    return slide.read_region(slide.size.region, slide.mpp)


TILED = {"tile": (256, 256)}
REDUCED = {**TILED, "subfiletype": 1}


def test_a_thumbnail_in_the_first_page_is_a_level_of_the_slide(tmp_path, he_picture):
    half, eighth = reduce_by(he_picture, 2), reduce_by(he_picture, 8)
    path = _write(
        tmp_path / "a.tif",
        (eighth, 4.0, {"subfiletype": 1}),
        (he_picture, 0.5, TILED),
        (half, 1.0, REDUCED),
    )
    slide = open_slide(path)
    assert slide.mpp == pytest.approx(0.5)
    assert [stored.size.width for stored in slide.levels] == [1024, 512, 128]
    np.testing.assert_array_equal(_whole(slide), he_picture)
    np.testing.assert_array_equal(slide.read_level(Region(0, 0, 128, 128), 2), eighth)


def test_a_label_in_the_first_page_is_left_alone(tmp_path, he_picture):
    label = np.full((100, 200, 3), 77, np.uint8)
    slide = open_slide(_write(tmp_path / "a.tif", (label, None, {}), (he_picture, 0.5, TILED)))
    assert slide.mpp == pytest.approx(0.5)
    assert [stored.size for stored in slide.levels] == [Size(1024, 1024)]
    np.testing.assert_array_equal(_whole(slide), he_picture)


@pytest.mark.parametrize("scaled", [True, False])
def test_levels_that_nobody_flagged_are_found_in_any_order(tmp_path, he_picture, scaled):
    pages = [(reduce_by(he_picture, f) if f > 1 else he_picture, 0.5 * f, TILED) for f in (4, 2, 1)]
    path = _write(tmp_path / "a.tif", *((image, mpp if scaled else None, o) for image, mpp, o in pages))
    slide = open_slide(path, 0.5)
    assert [(stored.size.width, stored.downsample) for stored in slide.levels] == [
        (1024, 1),
        (512, 2),
        (256, 4),
    ]
    np.testing.assert_array_equal(_whole(slide), he_picture)


def test_half_the_size_at_the_same_scale_is_another_slide(tmp_path, he_picture):
    path = _write(tmp_path / "a.tif", (he_picture, 0.5, TILED), (he_picture[:512, :512], 0.5, TILED))
    with pytest.raises(AmbiguousSlideError, match=r"0: 1024 × 1024 px; 1: 512 × 512 px"):
        open_slide(path)


def test_several_large_images_are_listed_and_chosen(tmp_path, he_picture):
    other = np.ascontiguousarray(he_picture[:700, ::-1])
    path = _write(
        tmp_path / "a.tif",
        (np.full((60, 90, 3), 77, np.uint8), None, {}),
        (he_picture, 0.5, {**TILED, "description": "left piece"}),
        (reduce_by(he_picture, 4), 2.0, REDUCED),
        (other, 0.25, {**TILED, "description": "right piece"}),
        (reduce_by(other, 2), 0.5, REDUCED),
    )
    listed = "1: 'left piece' 1024 × 1024 px; 2: 'right piece' 1024 × 700 px"
    want = f"holds several images ({listed}); choose one with --series N, series= in Python"
    with pytest.raises(AmbiguousSlideError, match=re.escape(want)):
        open_slide(path)
    left, right = open_slide(path, view=View(series=1)), open_slide(path, view=View(series=2))
    np.testing.assert_array_equal(_whole(left), he_picture)
    np.testing.assert_array_equal(_whole(right), other)
    assert (left.mpp, right.mpp) == (pytest.approx(0.5), pytest.approx(0.25))
    assert [s.size.width for s in left.levels] == [1024, 256]
    assert [s.size.width for s in right.levels] == [1024, 512]
    np.testing.assert_array_equal(
        left.from_level(1).read_level(Region(0, 0, 256, 256), 0), reduce_by(he_picture, 4)
    )
    with pytest.raises(InvalidValueError, match=r"--series must be the number of an image of .*, got 3"):
        open_slide(path, view=View(series=3))


def test_long_lists_are_cut(tmp_path):
    picture = np.zeros((16, 16, 3), np.uint8)
    path = _write(tmp_path / "a.tif", *[(picture, 0.5, {"subfiletype": n % 2}) for n in range(60)])
    with pytest.raises(AmbiguousSlideError, match=r"6: 16 × 16 px; 7: 16 × 16 px …\)"):
        open_slide(path)
    assert open_slide(path, view=View(series=29)).size == Size(16, 16)


def test_reduced_pages_follow_the_image_that_they_fit(tmp_path, he_picture):
    """Of two images of one size, each has the pages after it."""
    path = _write(
        tmp_path / "a.tif",
        (he_picture, 0.5, TILED),
        (he_picture, 0.5, TILED),
        (reduce_by(he_picture, 4), 2.0, REDUCED),
    )
    assert [len(open_slide(path, view=View(series=n)).levels) for n in (0, 1)] == [1, 2]


@pytest.mark.parametrize("name", ["label.png", "a.svs"])
def test_files_of_one_image_know_no_series(tmp_path, he_picture, name):
    path = tmp_path / name
    if path.suffix == ".png":
        from PIL import Image

        Image.fromarray(he_picture).save(path)
    else:
        text = "Aperio Image Library v11\n1024x1024 (256x256) JPEG/RGB Q=90|AppMag = 20|MPP = 0.499"
        write_tiff(path, he_picture, None, levels=1, description=text)
    with pytest.raises(
        InvalidValueError, match=r"--series chooses an image of a TIFF or OME-Zarr; .* as one"
    ):
        open_slide(path, 0.5, View(series=0))


def _ome(path, *images):
    """Write OME-TIFF images of (array, metadata, options)."""
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for image, metadata, options in images:
            size = {f"PhysicalSize{a}": metadata.pop("mpp", 0.5) for a in "X"}
            size |= {"PhysicalSizeY": size["PhysicalSizeX"]}
            tiff.write(image, metadata={**size, **metadata}, tile=(256, 256), **options)
    return path


def test_the_largest_image_of_ome_is_the_slide_at_its_own_scale(tmp_path, he_picture):
    path = _ome(
        tmp_path / "a.ome.tif",
        (
            np.ascontiguousarray(he_picture[:400, :900]),
            {"axes": "YXS", "Name": "macro image", "mpp": 20.0},
            {},
        ),
        (he_picture, {"axes": "YXS", "Name": "scan", "mpp": 0.25}, {}),
    )
    slide = open_slide(path)
    assert (slide.size, slide.mpp) == (Size(1024, 1024), 0.25)
    np.testing.assert_array_equal(_whole(slide), he_picture)
    macro = open_slide(path, view=View(series=0))
    assert (macro.size, macro.mpp) == (Size(400, 900), 20.0)


def test_two_large_images_of_ome_are_listed_by_name(tmp_path, he_picture):
    path = _ome(
        tmp_path / "a.ome.tif",
        (he_picture, {"axes": "YXS", "Name": "liver"}, {}),
        (np.ascontiguousarray(he_picture[:800]), {"axes": "YXS", "Name": "spleen"}, {}),
    )
    with pytest.raises(AmbiguousSlideError, match="0: 'liver' 1024 × 1024 px; 1: 'spleen' 1024 × 800 px"):
        open_slide(path)
    np.testing.assert_array_equal(_whole(open_slide(path, view=View(series=1))), he_picture[:800])


CHANNELS = {
    "names": ({"Name": ["Red", "Green", "Blue"]}, (0, 1, 2)),
    "letters": ({"Name": ["R", "G", "B"]}, (0, 1, 2)),
    "other order": ({"Name": ["blue", "green", "red"]}, (2, 1, 0)),
    "colours": ({"Color": [RED, GREEN, BLUE]}, (0, 1, 2)),
}


@pytest.mark.parametrize("said", CHANNELS)
def test_three_grey_planes_that_say_so_are_red_green_and_blue(tmp_path, he_picture, said):
    channel, order = CHANNELS[said]
    half = reduce_by(he_picture, 2)
    planes, below = (np.ascontiguousarray(np.moveaxis(a[..., order], -1, 0)) for a in (he_picture, half))
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": channel}
    options = {"photometric": "minisblack", "tile": (256, 256), "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(planes, subifds=1, metadata=metadata, **options)
        tiff.write(below, subfiletype=1, **options)
    slide = open_slide(path)
    assert [stored.size.width for stored in slide.levels] == [1024, 512]
    np.testing.assert_array_equal(_whole(slide), he_picture)
    np.testing.assert_array_equal(slide.read_level(Region(3, 5, 200, 300), 1), half[3:203, 5:305])


@pytest.mark.parametrize(
    ("count", "channel", "listed"),
    [
        (3, {}, ""),
        (3, {"Name": ["DAPI", "CD3", "CD8"]}, r" \(DAPI, CD3, CD8\)"),
        (2, {"Name": ["R", "G"]}, ""),
    ],
)
def test_other_channels_are_refused(tmp_path, he_picture, count, channel, listed):
    planes = np.ascontiguousarray(np.moveaxis(he_picture[..., :count], -1, 0))
    metadata = {"axes": "CYX", "Channel": channel} if channel else {"axes": "CYX"}
    path = _ome(tmp_path / "a.ome.tif", (planes, metadata, {"photometric": "minisblack"}))
    with pytest.raises(
        AmbiguousSlideError, match=rf"{count} grey channels{listed}.*name them Red, Green and Blue"
    ):
        open_slide(path)


def test_a_focus_plane_is_chosen_and_never_taken_silently(tmp_path, he_picture):
    stack = np.stack([np.roll(he_picture, 100 * z, axis=1) for z in range(3)])
    path = _ome(tmp_path / "a.ome.tif", (stack, {"axes": "ZYXS"}, {"photometric": "rgb"}))
    with pytest.raises(AmbiguousSlideError, match="has 3 focus planes; choose one with --z 0 to 2"):
        open_slide(path)
    for z in range(3):
        np.testing.assert_array_equal(_whole(open_slide(path, view=View(z=z))), stack[z])
    with pytest.raises(SlideError, match="has focus planes 0 to 2, not plane 3; correct --z"):
        open_slide(path, view=View(z=3))


def test_points_in_time_are_refused(tmp_path, he_picture):
    path = _ome(
        tmp_path / "a.ome.tif", (np.stack([he_picture] * 2), {"axes": "TYXS"}, {"photometric": "rgb"})
    )
    with pytest.raises(AmbiguousSlideError, match="holds 2 points in time"):
        open_slide(path)


def test_a_slide_of_one_plane_has_no_other(lossless_slide):
    assert open_slide(lossless_slide, view=View(z=0)).size == Size(1024, 1024)
    with pytest.raises(SlideError, match="has one focus plane, not plane 2; correct --z"):
        open_slide(lossless_slide, view=View(z=2))


def test_an_imagej_stack_in_one_page_is_refused(tmp_path, he_picture):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.stack([he_picture] * 2), imagej=True, photometric="rgb", metadata={"axes": "ZYXS"}
    )
    with tifffile.TiffFile(path) as tiff:
        pages = len(tiff.pages)
    with pytest.raises(
        AmbiguousSlideError, match="several images" if pages > 1 else "ImageJ stack of 2 pictures"
    ):
        open_slide(path, 0.5)


def test_xml_of_another_picture_is_not_believed(tmp_path, he_picture):
    """Programs that crop or resize a slide leave the XML as it was."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(tmp_path / "b.ome.tif", ome=True) as tiff:
        tiff.write(
            he_picture, photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 9, "PhysicalSizeY": 9}
        )
    with tifffile.TiffFile(tmp_path / "b.ome.tif") as tiff:
        text = tiff.pages.first.description
    crop = np.ascontiguousarray(he_picture[:500, :600])
    tifffile.imwrite(path, crop, photometric="rgb", metadata=None, description=text.encode(), **_scale(0.5))
    slide = open_slide(path)
    assert (slide.size, slide.mpp) == (Size(500, 600), pytest.approx(0.5))
    np.testing.assert_array_equal(_whole(slide), crop)


def _xml(path, image, body, root='UUID="urn:uuid:here"'):
    """Write grey pages with OME-XML of one's own."""
    text = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" {root}>{body}</OME>'
    with tifffile.TiffWriter(path) as tiff:
        for page in image:
            tiff.write(page, photometric="minisblack", metadata=None, description=text, **_scale(0.5))
    return path


def _pixels(size, data, sizes='SizeC="3" SizeZ="1" SizeT="1"'):
    channels = "".join(f'<Channel ID="Channel:0:{i}" Name="{n}"/>' for i, n in enumerate("RGB"))
    size = f'SizeX="{size[1]}" SizeY="{size[0]}" {sizes}'
    return f'<Image><Pixels DimensionOrder="XYCZT" Type="uint8" {size}>{channels}{data}</Pixels></Image>'


def _data(channel, ifd, file="here"):
    uuid = f'<UUID FileName="{file}.tif">urn:uuid:{file}</UUID>'
    return f'<TiffData FirstC="{channel}" IFD="{ifd}" PlaneCount="1">{uuid}</TiffData>'


def test_pages_are_those_that_the_xml_names(tmp_path, he_picture):
    """In any order of pages; channels are red, green, blue."""
    planes = np.moveaxis(he_picture, -1, 0)[[2, 0, 1]]
    data = _data(0, 1) + _data(1, 2) + _data(2, 0)
    path = _xml(tmp_path / "a.ome.tif", planes, _pixels((1024, 1024), data))
    np.testing.assert_array_equal(_whole(open_slide(path)), he_picture)


@pytest.mark.parametrize(
    "data",
    [_data(0, 0) + _data(1, 0, "green") + _data(2, 0, "blue"), _data(0, 0), _data(0, 0) + _data(1, 1)],
    ids=["in other files", "only one named", "past the end"],
)
def test_a_slide_that_lacks_channels_is_refused(tmp_path, he_picture, data):
    """One channel of three would be read as a grey slide."""
    path = _xml(tmp_path / "a.ome.tif", he_picture[None, ..., 0], _pixels((1024, 1024), data))
    with pytest.raises(AmbiguousSlideError, match="lacks planes that its OME-XML names"):
        open_slide(path)


def test_one_file_of_a_set_is_refused(tmp_path, he_picture):
    body = '<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:set"/>'
    path = _xml(tmp_path / "a.ome.tif", he_picture[None, ..., 0], body)
    with pytest.raises(AmbiguousSlideError, match="is one file of an OME-TIFF set, and may be one channel"):
        open_slide(path)


def test_an_image_in_another_file_is_none_of_this_one(tmp_path, he_picture):
    size = 'SizeC="1" SizeZ="1" SizeT="1"'
    body = _pixels((9999, 9999), _data(0, 0, "there"), size) + _pixels((1024, 1024), _data(0, 0), size)
    path = _xml(tmp_path / "a.ome.tif", he_picture[None, ..., 0], body)
    want = np.repeat(he_picture[..., :1], 3, axis=2)
    np.testing.assert_array_equal(_whole(open_slide(path)), want)
    np.testing.assert_array_equal(_whole(open_slide(path, view=View(series=1))), want)
    with pytest.raises(InvalidValueError, match="--series must be the number of an image"):
        open_slide(path, view=View(series=0))
