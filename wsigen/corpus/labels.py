"""Labels of a corpus's slides: tissue, nuclei, and their positivity, for QuPath, as masks and as COCO.

Nuclei are those of `wsigen.slide.nuclei`, with one threshold for a slide. They are read off the H&E, so that
labels are as good as that segmentation, not ground truth.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from scipy.ndimage import find_objects
from skimage.measure import find_contours
from tqdm.auto import tqdm

from wsigen.config.corpus import LabelCorpusConfig
from wsigen.corpus.dataset import Corpus, CorpusPair
from wsigen.corpus.slides import overview
from wsigen.errors import InvalidValueError
from wsigen.files import atomic_path, make_folder, write_bytes
from wsigen.slide.levels import Slide
from wsigen.slide.nuclei import COARSEST_MPP, SMOOTHING_UM, label_nuclei, nuclei_threshold
from wsigen.slide.stains import stain_densities
from wsigen.slide.tissue import tissue_mask

LABELS = "labels"
"""Folder of a corpus that its labels are in."""

TILE = 1024
MARGIN_UM = 48.0
"""Around a tile: the surroundings that a nucleus is compared with, and the largest nucleus."""

TISSUE, NUCLEUS = 1, 2
"""Values of the masks; 0 is background."""

_COLOURS = {
    "Tissue": [200, 200, 0],
    "Negative": [112, 112, 225],
    "Positive": [250, 62, 62],
    "Nucleus": [0, 128, 0],
}
_NAMESPACE = uuid.UUID("5b1f3a52-0d0e-5b0b-8a8c-77736967656e")
_CATEGORIES = [{"id": 1, "name": "Nucleus", "supercategory": "cell"}]

Polygon = np.ndarray


@dataclass(frozen=True)
class Nucleus:
    """A nucleus.

    Args:
        outline: float (n, 2), x and y in px of level 0, closed.
        area: µm².
        dab: mean optical density of DAB on each IHC slide.
    """

    outline: Polygon
    area: float
    dab: tuple[float, ...]


def label_corpus(config: LabelCorpusConfig) -> dict[str, int]:
    """Label every slide that has no labels yet, and write the COCO files of the splits.

    Returns:
        Number of nuclei of each slide.

    Raises:
        SlideError: the corpus, or one of its files, cannot be read.
        InvalidValueError: slides are kept as seeds, or too coarse to see nuclei.
        OutputError: the disk refuses.
    """
    corpus = Corpus(config.corpus)
    folder = corpus.folder / LABELS
    make_folder(folder)
    rows = corpus.rows()
    if any(not row["he"] for row in rows):
        raise InvalidValueError(
            f"{corpus.folder} keeps its slides as seeds; labels need files: make it with --materialise all"
        )
    if (coarsest := max(row["mpp"] for row in rows)) > COARSEST_MPP:
        raise InvalidValueError(
            f"{corpus.folder} has slides of {coarsest:g} µm/px; nuclei need at most {COARSEST_MPP:g}"
        )
    for row in tqdm(rows, desc="labels", unit="slide"):
        path = folder / f"{row['name']}.geojson"
        if config.overwrite or not path.is_file():
            label_slide(corpus[row["name"]], list(row["stains"]), path, config.positive)
    counts: dict[str, int] = {}
    for split in dict.fromkeys(row["split"] for row in rows):
        of_split = [row for row in rows if row["split"] == split]
        counts |= write_coco(folder, of_split, folder / f"{split}.coco.json")
    return counts


def label_slide(pair: CorpusPair, stains: Sequence[str], path: Path, positive: float) -> None:
    """Write a slide's outlines and, before them, its mask.

    Args:
        pair: the slide and its IHC slides.
        stains: markers of the IHC slides.
        path: of the GeoJSON; the mask is ``NAME_mask.tif`` beside it.
        positive: mean optical density of DAB from which a nucleus is positive.

    Raises:
        OutputError: the disk refuses.
    """
    (width, height), um = pair.he.dimensions, pair.he.mpp
    image, coarse = overview(pair.he)
    tissue = tissue_mask(image, coarse)
    scale = coarse / um
    features = [_tissue_feature(polygon * scale, path.stem) for polygon in outlines(tissue)]
    nuclei: list[Nucleus] = []
    mask = np.memmap(path.with_suffix(".partial"), np.uint8, "w+", shape=(height, width))
    try:
        rows = cv2.resize(tissue.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        mask[:] = rows * TISSUE
        for x, y, labels, found in _tiles(pair, tissue, scale):
            core = mask[y : y + labels.shape[0], x : x + labels.shape[1]]
            core[labels > 0] = NUCLEUS
            nuclei += found
        with atomic_path(path.with_name(f"{path.stem}_mask.tif")) as temporary:
            resolution = (1e4 / um, 1e4 / um)
            options = {"tile": (256, 256), "compression": "deflate", "resolutionunit": "CENTIMETER"}
            tifffile.imwrite(temporary, mask, resolution=resolution, metadata=None, bigtiff=True, **options)
    finally:
        del mask
        path.with_suffix(".partial").unlink(missing_ok=True)
    features += [_nucleus_feature(n, i, stains, positive, path.stem) for i, n in enumerate(nuclei)]
    content = {"type": "FeatureCollection", "features": features}
    write_bytes(path, json.dumps(content, separators=(",", ":")).encode())


def outlines(mask: np.ndarray) -> list[Polygon]:
    """Return the outer outlines of a mask's parts, float (n, 2), x and y in px from its corner, closed."""
    padded = np.pad(mask.astype(np.float32), 1)
    found = []
    for contour in find_contours(padded, 0.5):
        y, x = (contour - 0.5).T  # from centres of padded pixels to edges of the mask's own
        # Outer ones run clockwise on the screen, holes the other way.
        if len(contour) > 3 and float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) > 0:
            found.append(np.stack([x, y], axis=1))
    return found


def _tiles(
    pair: CorpusPair, tissue: np.ndarray, scale: float
) -> Iterator[tuple[int, int, np.ndarray, list[Nucleus]]]:
    """Yield x, y, labels of the nuclei and the nuclei of every tile with tissue; each nucleus is in one."""
    (width, height), um = pair.he.dimensions, pair.he.mpp
    margin = round(MARGIN_UM / um)
    threshold = _threshold(pair.he, tissue, scale)
    for y in range(0, height, TILE):
        for x in range(0, width, TILE):
            rows, columns = (slice(int(a / scale), int((a + TILE) / scale) + 1) for a in (y, x))
            if not tissue[rows, columns].any():
                continue
            side = TILE + 2 * margin
            image = _read(pair.he, x - margin, y - margin, side, side, 1)
            labels = label_nuclei(image, um, threshold=threshold)
            dab = [
                stain_densities(_read(ihc, x - margin, y - margin, side, side, 1), stains="h-dab")[..., 2]
                for ihc in pair.ihc.values()
            ]
            found = _nuclei(labels, dab, (x - margin, y - margin), (x, y), um)
            core = labels[margin : margin + min(TILE, height - y), margin : margin + min(TILE, width - x)]
            yield x, y, core, found


def _nuclei(
    labels: np.ndarray, dab: Sequence[np.ndarray], origin: tuple[int, int], core: tuple[int, int], um: float
) -> list[Nucleus]:
    """Return the nuclei whose centre lies in the tile at ``core``; ``labels`` begin at ``origin``."""
    found = []
    for number, place in enumerate(find_objects(labels), start=1):
        mask = labels[place] == number
        corner = np.array([place[1].start + origin[0], place[0].start + origin[1]])
        x, y = np.argwhere(mask)[:, ::-1].mean(axis=0) + 0.5 + corner
        if not (core[0] <= x < core[0] + TILE and core[1] <= y < core[1] + TILE):
            continue
        outline = max(outlines(mask), key=len) + corner
        means = tuple(float(density[place][mask].mean()) for density in dab)
        found.append(Nucleus(outline, float(mask.sum()) * um**2, means))
    return found


def _threshold(he: Slide, tissue: np.ndarray, scale: float, most: int = 64) -> float:
    """Return Otsu's threshold of the haematoxylin in up to ``most`` squares of tissue of the slide."""
    places = np.argwhere(cv2.erode(tissue.astype(np.uint8), np.ones((3, 3), np.uint8)))
    places = places if len(places) else np.argwhere(tissue)
    side, sigma, smoothed = 256, max(0.5, SMOOTHING_UM / he.mpp), []
    for y, x in places[:: max(1, len(places) // most)][:most]:
        image = _read(he, round(x * scale) - side // 2, round(y * scale) - side // 2, side, side, 1)
        density = np.ascontiguousarray(stain_densities(image, stains="h-e")[..., 0])
        smoothed.append(cv2.GaussianBlur(density, (0, 0), sigma))
    return nuclei_threshold(np.stack(smoothed)) if smoothed else np.inf


def _read(slide: Slide, x: int, y: int, width: int, height: int, downsample: float) -> np.ndarray:
    um = slide.mpp
    return slide.read_region_um(x=x * um, y=y * um, width=width * um, height=height * um, mpp=um * downsample)


def _tissue_feature(outline: Polygon, slide: str) -> dict[str, Any]:
    return _feature(outline, "annotation", "Tissue", {}, f"{slide} tissue {outline[0].tolist()}")


def _nucleus_feature(
    nucleus: Nucleus, number: int, stains: Sequence[str], positive: float, slide: str
) -> dict[str, Any]:
    """A detection, positive or negative by its only stain, with measurements named as QuPath does."""
    measurements = {"Nucleus: Area µm^2": round(nucleus.area, 3)}
    measurements |= {
        f"Nucleus: {s} DAB OD mean": round(v, 4) for s, v in zip(stains, nucleus.dab, strict=True)
    }
    name = "Nucleus"
    if len(stains) == 1:
        name = "Positive" if nucleus.dab[0] >= positive else "Negative"
    return _feature(nucleus.outline, "detection", name, measurements, f"{slide} nucleus {number}")


def _feature(
    outline: Polygon, kind: str, name: str, measurements: dict[str, float], key: str
) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, key)),
        "geometry": {"type": "Polygon", "coordinates": [np.round(outline, 2).tolist()]},
        "properties": {
            "objectType": kind,
            "classification": {"name": name, "color": _COLOURS[name]},
            "measurements": measurements,
        },
    }


def write_coco(folder: Path, rows: Sequence[dict[str, Any]], path: Path) -> dict[str, int]:
    """Write the nuclei of a split's slides in the format of COCO: boxes and polygons in px of level 0.

    Returns:
        Number of nuclei of each slide.
    """
    images, annotations, counts = [], [], {}
    for number, row in enumerate(rows, start=1):
        images.append(
            {
                "id": number,
                "file_name": f"../{row['he']}",
                "width": int(row["width"]),
                "height": int(row["height"]),
            }
        )
        before = len(annotations)
        for feature in filter(_is_nucleus, _features(folder / f"{row['name']}.geojson")):
            (outline,) = feature["geometry"]["coordinates"]
            points = np.array(outline)
            (x, y), (x1, y1) = points.min(0), points.max(0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": [points[:-1].ravel().tolist()],
                    "area": round(
                        feature["properties"]["measurements"]["Nucleus: Area µm^2"] / row["mpp"] ** 2, 2
                    ),
                    "bbox": [round(float(v), 2) for v in (x, y, x1 - x, y1 - y)],
                    "iscrowd": 0,
                }
            )
        counts[row["name"]] = len(annotations) - before
    content = {"images": images, "annotations": annotations, "categories": _CATEGORIES}
    write_bytes(path, json.dumps(content, separators=(",", ":")).encode())
    return counts


def _features(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_bytes())["features"]


def _is_nucleus(feature: dict[str, Any]) -> bool:
    return feature["properties"]["objectType"] == "detection"
