"""Write slides as DICOM whole-slide images with wsidicom; the slides of one tissue are series of a study.

JPEG tiles that a file stores are copied as they are; all others are coded without loss, as JPEG 2000. So the
pixels are those of the slide either way. Importing this module needs wsidicom.
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Iterable
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit
from wsidicom import ImageData, WsiDicom, WsiInstance
from wsidicom.codec import Encoder, LossyCompressionIsoStandard
from wsidicom.geometry import Point, PointMm, SizeMm
from wsidicom.geometry import Size as Extent
from wsidicom.graphical_annotations import AnnotationInstance
from wsidicom.instance import WsiDataset
from wsidicom.metadata import (
    Equipment,
    Image,
    ImageCoordinateSystem,
    ImageType,
    Label,
    LossyCompression,
    OpticalPath,
    Patient,
    Pyramid,
    Series,
    SlideSample,
    Staining,
    Study,
    WsiMetadata,
)
from wsidicom.metadata import Slide as Glass
from wsidicom.metadata.schema.dicom.wsi import WsiMetadataDicomSchema
from wsidicom.source import Source

from wsigen.errors import SlideError
from wsigen.files import disk_errors
from wsigen.geometry import Region
from wsigen.slide.convert import Export, Progress, power_levels
from wsigen.slide.provenance import NOTICE, SOFTWARE
from wsigen.slide.pyramid import pad_edge

TILE = 256
"""Side of tiles that are coded anew, px."""
_NAMESPACE = uuid.UUID("0d6e8b1c-52a4-5d0e-9f6b-77736967656e")
_EARLIEST = datetime.datetime(1900, 1, 1)  # the standard wants a time; nothing here depends on the clock


def write_dicom(export: Export, folder: Path, progress: Progress) -> None:
    """Write a slide, one file for each level.

    Args:
        export: the slide.
        folder: new or empty.
        progress: called for every tile.

    Raises:
        SlideError: the slide is damaged.
        OutputError: the disk refuses.

    Memory: a few tiles, and 16 bytes for each.

    Determinism: identifiers follow from the names.
    """
    levels = power_levels(export.slide)
    copied = export.stored.ycbcr_bytes([factor for _, factor in levels]) if export.stored else None
    images = [_Level(export, level, factor, copied, progress) for level, factor in levels]
    metadata = _metadata(export)
    schema = WsiMetadataDicomSchema()
    instances = [
        WsiInstance.create_instance(
            image,
            schema.dump(metadata, ImageType.VOLUME, True),
            ImageType.VOLUME,
            factor.bit_length() - 1,
        )
        for image, (_, factor) in zip(images, levels, strict=True)
    ]
    numbers = iter(range(2**31))
    width, height = export.slide.dimensions
    # of basic offset tables, the offsets have 32 bits
    large = (3 * width * height if copied is None else copied) >= 2**32
    with disk_errors(folder), WsiDicom(_Levels(instances)) as slide:
        slide.save(
            folder,
            uid_generator=lambda: _uid(export.name, f"instance {next(numbers)}"),
            workers=1,
            offset_table="eot" if large else "bot",
            metadata=metadata,
        )


class _Level(ImageData):
    """A level of a slide, tile by tile.

    Args:
        export: the slide.
        level: of it.
        factor: of the level to level 0.
        copied: bytes of the JPEG tiles that are copied; None where tiles are coded anew.
        progress: called for every tile.
    """

    def __init__(
        self, export: Export, level: int, factor: int, copied: int | None, progress: Progress
    ) -> None:
        self._export, self._level, self._factor, self._copied = export, level, factor, copied
        self._progress = progress
        self._size = Extent(*export.slide.level_dimensions[level])
        self._tile = export.stored.tile if export.stored and copied is not None else TILE
        super().__init__(Encoder.create(self.transfer_syntax, self.bits, self.photometric_interpretation))

    @property
    def transfer_syntax(self) -> UID:
        return JPEG2000Lossless if self._copied is None else JPEGBaseline8Bit

    @property
    def photometric_interpretation(self) -> str:
        return "YBR_RCT" if self._copied is None else "YBR_FULL_422"

    @property
    def image_size(self) -> Extent:
        return self._size

    @property
    def tile_size(self) -> Extent:
        return Extent(self._tile, self._tile)

    @property
    def pixel_spacing(self) -> SizeMm:
        height, width = self._export.pixel_um
        return SizeMm(width * self._factor / 1000, height * self._factor / 1000)

    @property
    def imaged_size(self) -> SizeMm:
        (width, height), (tall, wide) = self._export.slide.dimensions, self._export.pixel_um
        return SizeMm(width * wide / 1000, height * tall / 1000)

    @property
    def samples_per_pixel(self) -> int:
        return 3

    @property
    def bits(self) -> int:
        return 8

    @property
    def image_coordinate_system(self) -> ImageCoordinateSystem:
        return ImageCoordinateSystem(PointMm(0, 0), 0)

    @property
    def thread_safe(self) -> bool:
        return False

    @property
    def lossy_compression(self) -> list[LossyCompression] | None:
        """That of the copied tiles; of a slide that was decoded, nothing is known."""
        if self._copied is None or self._export.stored is None:
            return None
        own = self._export.stored.ycbcr_bytes([self._factor]) or 1
        ratio = 3 * self._size.width * self._size.height / own
        return [LossyCompression(LossyCompressionIsoStandard.JPEG_LOSSY, round(ratio, 2))]

    @property
    def transcoder(self) -> Encoder | None:
        return None

    def get_decoded_tile(self, tile_point: Point, z: float, path: str, cache: bool = True) -> np.ndarray:
        inside = self._inside(tile_point)
        return pad_edge(self._export.slide.read(inside, self._level), self._tile, self._tile)

    def _inside(self, tile: Point) -> Region:
        """Return the pixels of the level that a tile holds."""
        y, x = tile.y * self._tile, tile.x * self._tile
        height, width = self._size.height - y, self._size.width - x
        return Region(y, x, min(self._tile, height), min(self._tile, width))

    def get_encoded_tile(self, tile: Point, z: float, path: str) -> bytes:
        self._progress(self._inside(tile).size.area)
        if self._copied is None or self._export.stored is None:
            pixels = np.ascontiguousarray(self.get_decoded_tile(tile, z, path))
            return bytes(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", mct=True))
        data = self._export.stored.read(self._factor, tile.y, tile.x)
        if data is None:
            where = f"x {tile.x}, y {tile.y} of the level reduced {self._factor} times"
            raise SlideError(self._export.path, f"its tile {where} is damaged; make the slide again")
        return data


class _Levels(Source):
    """The instances of a slide, as wsidicom takes them."""

    def __init__(self, instances: list[WsiInstance]) -> None:
        super().__init__()
        self._instances = instances

    @property
    def base_dataset(self) -> WsiDataset:
        return self._instances[0].dataset

    @property
    def level_instances(self) -> Iterable[WsiInstance]:
        return self._instances

    @property
    def label_instances(self) -> Iterable[WsiInstance]:
        return ()

    @property
    def overview_instances(self) -> Iterable[WsiInstance]:
        return ()

    @property
    def thumbnail_instances(self) -> Iterable[WsiInstance]:
        return ()

    @property
    def annotation_instances(self) -> Iterable[AnnotationInstance]:
        return ()

    def close(self) -> None:
        """Nothing is open: tiles are read by the slide."""


def _metadata(export: Export) -> WsiMetadata:
    """Return what the files state besides pixels; slides of one study have study, patient and frame alike."""
    study, name = _text(export.study), _text(export.name)
    notice = NOTICE if export.synthetic else None
    maker = SOFTWARE.split()[0]
    return WsiMetadata(
        study=Study(uid=_uid(export.study, "study"), description=study),
        series=Series(uid=_uid(export.name, "series"), number=export.number, description=_text(export.stain)),
        patient=Patient(name=study, identifier=study, comments=notice),
        equipment=Equipment(maker, maker, "0", [SOFTWARE]) if export.synthetic else Equipment(),
        slide=Glass(
            identifier=name,
            stainings=[Staining(substances=export.stain)],
            samples=[SlideSample(identifier=name, uid=_uid(export.name, "sample"), short_description=study)],
        ),
        pyramid=Pyramid(
            image=Image(acquisition_datetime=_EARLIEST, content_datetime=_EARLIEST),
            optical_paths=[OpticalPath(identifier="0")],
            uid=_uid(export.name, "pyramid"),
            comments=notice,
        ),
        label=Label(),
        frame_of_reference_uid=_uid(export.study, "frame"),
        dimension_organization_uids=[_uid(export.name, "dimensions")],
    )


def _text(name: str) -> str:
    """Return a name as DICOM takes it: 64 characters at most, without the backslash that divides values."""
    return name.replace("\\", "/")[:64]


def _uid(*parts: str) -> UID:
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(parts)).int}")
