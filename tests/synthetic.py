"""Slides that the tests make themselves: H&E-like pictures, and TIFF pyramids that OpenSlide opens."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit

GLASS = 243
STROMA = (226, 168, 200)
FIBRE = (205, 120, 170)
NUCLEUS = (96, 60, 138)
_SYNTAXES = {"jpeg": JPEGBaseline8Bit, "jpeg2000": JPEG2000Lossless}


def he_image(size: int | tuple[int, int], seed: int = 0, tissue: bool = True, mpp: float = 0.5) -> np.ndarray:
    """A picture that looks like H&E: glass margin, fibrous stroma, round lumina, nuclei of 6 µm.

    Args:
        size: side, or (height, width), in pixels.
        seed: which picture.
        tissue: False for bare glass.
        mpp: µm/px, which sets how large nuclei, fibres and lumina appear.

    Returns:
        uint8 (height, width, 3).
    """
    height, width = (size, size) if isinstance(size, int) else size
    rng = np.random.default_rng(seed)
    glass = np.full((height, width, 3), GLASS, np.float32)
    if tissue:
        inside = _blob(height, width, rng, lumen_px=max(2.0, 40 / mpp))[..., None]
        stroma = _stroma(height, width, rng, mpp)
        _add_nuclei(stroma, rng, mpp)
        glass = glass * (1 - inside) + stroma * inside
    grain = rng.normal(0, 1.5, (height, width, 1)).astype(np.float32)
    return np.clip(glass + grain, 0, 255).astype(np.uint8)


def write_tiff(
    path: Path,
    image: np.ndarray,
    mpp: float | None,
    tile: int = 256,
    levels: int = 2,
    *,
    compression: str = "jpeg",
    factor: int = 2,
    subifds: bool = False,
    ome: bool = False,
    description: str | None = None,
) -> Path:
    """Write a tiled pyramid.

    Args:
        path: the file.
        image: uint8 (height, width, 3).
        mpp: µm/px, stored as the resolution per centimetre; None stores none.
        tile: side of the tiles.
        levels: number of levels, each ``factor`` times smaller than the one before.
        compression: as tifffile names it; "jpeg" is stored as YCbCr 4:2:0, which OpenSlide reads.
        factor: between levels.
        subifds: put the smaller levels into SubIFDs, which OpenSlide does not follow, rather than pages.
        ome: write OME-XML with PhysicalSizeX and Y.
        description: text for ImageDescription.

    Returns:
        ``path``.
    """
    options: dict = {"tile": (tile, tile), "photometric": "rgb", "compression": compression}
    if compression == "jpeg":
        options |= {"compressionargs": {"level": 90}, "subsampling": (2, 2)}
    metadata = None
    if ome:
        metadata = {"axes": "YXS"}
        if mpp:
            metadata |= {f"PhysicalSize{a}": mpp for a in "XY"} | {f"PhysicalSize{a}Unit": "µm" for a in "XY"}
    with tifffile.TiffWriter(path, bigtiff=True, ome=ome) as tiff:
        for level in range(levels):
            if mpp and not ome:
                per_cm = 1e4 / mpp / factor**level
                options |= {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"}
            below = {"subifds": levels - 1} if subifds and level == 0 else {}
            below |= {"description": description} if description and level == 0 else {}
            tiff.write(
                image,
                metadata=metadata if level == 0 else None,
                subfiletype=int(level > 0),
                **below,
                **options,
            )
            image = reduce_by(image, factor)
    return path


def write_dicom(
    folder: Path,
    image: np.ndarray,
    mpp: float,
    *,
    series: str = "1.2.3",
    study: str = "1.2",
    patient: str = "",
    levels: int = 3,
    tile: int = 128,
    codec: str = "none",
    suffix: str = ".dcm",
    flavour: str = "VOLUME",
    **tags: Any,
) -> list[Path]:
    """Write a DICOM series, one file per level, as files of a folder.

    Args:
        folder: made if it is missing.
        image: uint8 (height, width, 3).
        mpp: µm/px of the first level; each is half as large as the one before.
        series: series instance UID, which also begins the names of the files.
        study: study instance UID.
        patient: patient ID.
        levels: number of files.
        tile: side of the tiles.
        codec: "none", "jpeg" or "jpeg2000" (lossless).
        suffix: of the files.
        flavour: third value of ImageType.
        tags: others, by keyword.

    Returns:
        The files, the finest first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for level in range(levels):
        height, width = image.shape[:2]
        frames = [
            np.pad(part, ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)), mode="edge")
            for y in range(0, height, tile)
            for x in range(0, width, tile)
            for part in (image[y : y + tile, x : x + tile],)
        ]
        header = _dicom_header(f"{series}.{level}", len(frames), (height, width), tile, mpp * 2**level)
        header.SeriesInstanceUID, header.StudyInstanceUID, header.PatientID = series, study, patient
        header.ImageType = ["DERIVED" if level else "ORIGINAL", "PRIMARY", flavour, "NONE"]
        header.PhotometricInterpretation = "YBR_FULL_422" if codec == "jpeg" else "RGB"
        header.file_meta.TransferSyntaxUID = _SYNTAXES.get(codec, ExplicitVRLittleEndian)
        if codec in _SYNTAXES:
            coded = [_jpeg(f) if codec == "jpeg" else imagecodecs.jpeg2k_encode(f, level=0) for f in frames]
            header.PixelData = encapsulate([bytes(data) for data in coded], has_bot=bool(level))
            header["PixelData"].VR = "OB"
        else:
            header.add_new("PixelData", "OB", b"".join(frame.tobytes() for frame in frames))
        for keyword, value in tags.items():
            setattr(header, keyword, value)
        files.append(folder / f"{series.rpartition('.')[2]}-{level}{suffix}")
        header.save_as(files[-1], enforce_file_format=True)
        image = reduce_by(image, 2)
    return files


def _dicom_header(
    uid: str, frames: int, size: tuple[int, int], tile: int, mpp: float
) -> pydicom.dataset.Dataset:
    header = pydicom.dataset.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID = uid
    header.file_meta.ImplementationClassUID = "1.2.3.4"
    header.Modality, header.DimensionOrganizationType = "SM", "TILED_FULL"
    header.NumberOfFrames, header.Rows, header.Columns = frames, tile, tile
    header.TotalPixelMatrixRows, header.TotalPixelMatrixColumns = size
    header.SamplesPerPixel, header.PlanarConfiguration, header.PixelRepresentation = 3, 0, 0
    header.BitsAllocated, header.BitsStored, header.HighBit = 8, 8, 7
    header.TotalPixelMatrixFocalPlanes, header.NumberOfOpticalPaths = 1, 1
    measures, shared = pydicom.dataset.Dataset(), pydicom.dataset.Dataset()
    measures.PixelSpacing = [mpp / 1000, mpp / 1000]
    shared.PixelMeasuresSequence = [measures]
    header.SharedFunctionalGroupsSequence = [shared]
    return header


def _jpeg(tile: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(tile).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def write_zarr(
    folder: Path,
    images: Sequence[np.ndarray],
    mpp: float | None,
    *,
    version: str = "0.5",
    axes: str = "tczyx",
    unit: str = "micrometer",
    chunk: int = 128,
    name: str = "",
    omero: Any = None,
    **options: Any,
) -> Path:
    """Write OME-Zarr.

    Args:
        folder: made if it is missing.
        images: the levels, each half as large as the one before, (height, width, channels), or in the order
            of ``axes``.
        mpp: µm/px of the first level; None states no unit.
        version: of NGFF; 0.4 is stored as Zarr 2, 0.5 as Zarr 3.
        axes: in the order in which they are stored.
        unit: of ``mpp``.
        chunk: side of the chunks.
        name: of the image.
        omero: metadata of the channels.
        options: for zarr's ``create_array``; ``chunks`` apart.

    Returns:
        ``folder``.
    """
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(folder, mode="w", zarr_format=2 if version == "0.4" else 3)
    lengths = {"t": 1, "c": 1, "z": 1, "y": chunk, "x": chunk}
    options["chunks"] = [lengths[axis] for axis in axes]
    datasets = []
    for level, image in enumerate(images):
        if image.ndim == 3:
            extra = [axis for axis in axes if axis in "tz"]
            image = image.reshape(*(1 for _ in extra), *image.shape)
            image = image.transpose([[*extra, "y", "x", "c"].index(axis) for axis in axes])
        group.create_array(str(level), shape=image.shape, dtype=image.dtype, **options)[:] = image
        pixel = (mpp or 1.0) * 2**level
        scale = {"type": "scale", "scale": [pixel if axis in "yx" else 1.0 for axis in axes]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale]})
    described = [{"name": axis, **({"unit": unit} if mpp and axis in "yx" else {})} for axis in axes]
    multiscale = {"version": version, "name": name, "axes": described, "datasets": datasets}
    metadata: dict = {"multiscales": [multiscale]} | ({"omero": {"channels": omero}} if omero else {})
    group.attrs.update(metadata if version == "0.4" else {"ome": {"version": version, **metadata}})
    return folder


def damage_tile(path: Path, how: str, index: int = 6, level: int = 0) -> None:
    """Damage the data of a tile of a TIFF, from a third of them on.

    Args:
        path: of the slide.
        how: "lost" (all zero), "shorter" (fewer bytes are stated), "zeros" or "noise" in place of the rest,
            "end mark" (of JPEG) before the rest.
        index: of the tile.
        level: its page.
    """
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level]
        start, count, tag = page.dataoffsets[index], page.databytecounts[index], page.tags["TileByteCounts"]
        width = {3: 2, 4: 4, 16: 8}[tag.dtype.value]
    at = start + count // 3
    if how == "shorter":
        size = struct.pack("<Q", count // 3)[:width]
        data[tag.valueoffset + index * width : tag.valueoffset + (index + 1) * width] = size
    elif how == "lost":
        data[start : start + count] = bytes(count)
    elif how == "zeros":
        data[at : start + count] = bytes(start + count - at)
    elif how == "noise":
        noise = np.random.default_rng(0).integers(0, 256, start + count - at, np.uint8)
        data[at : start + count] = noise.tobytes()
    else:
        data[at : at + 2] = b"\xff\xd9"
    path.write_bytes(data)


def reduce_by(image: np.ndarray, factor: int) -> np.ndarray:
    """Average over ``factor``×``factor`` pixels; the rest at the right and bottom is dropped."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    whole = image[: height * factor, : width * factor]
    return cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)


def _smooth_noise(height: int, width: int, rng: np.random.Generator, sigma: float) -> np.ndarray:
    step = max(1, int(sigma / 2))
    coarse = rng.normal(size=(height // step + 2, width // step + 2)).astype(np.float32)
    coarse = cv2.GaussianBlur(coarse, (0, 0), max(0.5, sigma / step))
    return cv2.resize(coarse / coarse.std(), (width, height), interpolation=cv2.INTER_CUBIC)


def _blob(height: int, width: int, rng: np.random.Generator, lumen_px: float) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    edge = 0.72 + 0.06 * _smooth_noise(height, width, rng, max(height, width) / 12)
    outline = (np.hypot(y, x) < edge).astype(np.float32)
    lumina = _smooth_noise(height, width, rng, lumen_px) < 1.7
    return cv2.GaussianBlur(outline * lumina, (0, 0), 1)


def _stroma(height: int, width: int, rng: np.random.Generator, mpp: float) -> np.ndarray:
    waves = _smooth_noise(height, width, rng, max(1.0, 25 / mpp))
    fibres = np.sin(4 * waves + np.arange(width, dtype=np.float32) * mpp / 3)[..., None] * 0.25 + 0.4
    return np.asarray(STROMA, np.float32) * (1 - fibres) + np.asarray(FIBRE, np.float32) * fibres


def _add_nuclei(image: np.ndarray, rng: np.random.Generator, mpp: float) -> None:
    height, width = image.shape[:2]
    count = min(20_000, int(height * width * mpp**2 / 300))  # one per 300 µm²
    places = rng.random((count, 2)) * (height, width)
    axes = rng.uniform(2.2, 3.8, (count, 2)) / mpp
    angles, shades = rng.uniform(0, 180, count), rng.uniform(0.75, 1.2, count)
    for (y, x), (a, b), angle, shade in zip(places, axes, angles, shades, strict=True):
        colour = tuple(float(c * shade) for c in NUCLEUS)
        box = ((float(x), float(y)), (float(max(1, 2 * a)), float(max(1, 2 * b))), float(angle))
        cv2.ellipse(image, box, colour, -1)
