"""The Python interface: sample and translate slides, read them, compare them with real ones.

A call of `Sampler` or `Translator` describes a `Pair` and computes nothing. Regions are computed when they
are read, whole slides when they are saved, by the same code as ``sample`` and ``wsigen translate``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsigen.config import SampleConfig, TranslateConfig, TranslateSlidesConfig
from wsigen.config.check import as_list
from wsigen.config.evaluate import EvaluateConfig
from wsigen.config.sample import size_text
from wsigen.config.translate import split_paths
from wsigen.pipeline.batch import Outcome, translate_slides
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.pair import Pair, SampledPair, TranslatedPair
from wsigen.pipeline.synthetic import SyntheticSlide
from wsigen.runtime import choose_device, choose_dtype
from wsigen.slide.levels import FileSlide, Slide
from wsigen.slide.read import open_slide as open_file
from wsigen.slide.view import View
from wsigen.slide.write import Layout

if TYPE_CHECKING:
    import torch

    from wsigen.corpus.dataset import Corpus
    from wsigen.evaluation.results import Report
    from wsigen.viewer.notebook import Viewing

__all__ = [
    "FileSlide",
    "Pair",
    "Sampler",
    "Slide",
    "SyntheticSlide",
    "Translator",
    "evaluate",
    "open_corpus",
    "open_slide",
    "view",
]

Precision = Literal["auto", "float32", "bfloat16"]
Paths = str | Path | Sequence[str | Path]


def open_slide(
    path: str | Path,
    *,
    mpp: float | None = None,
    series: int | None = None,
    z: int | None = None,
    icc: Literal["srgb"] | None = None,
) -> FileSlide:
    """Open a slide: any format of OpenSlide, other TIFF and OME-TIFF, OME-Zarr, PNG and JPEG.

    Args:
        path: the file; of DICOM any file of its series or their folder, of OME-Zarr the folder.
        mpp: µm/px of level 0, for files that do not state it.
        series: number of the image, for a TIFF or OME-Zarr that holds several; the error lists them.
        z: number of the focus plane, from 0, for an OME-TIFF or OME-Zarr that holds several.
        icc: "srgb" to convert colours by the file's ICC profile; None to leave them as they are stored.

    Raises:
        SlideError: the file is missing, damaged or of an unknown format.
        AmbiguousSlideError: it holds several images or focus planes, or colours that its tags leave open.
        MissingMppError: neither the file nor ``mpp`` states µm/px.
        InvalidValueError: ``mpp`` is not positive, or there is no image of number ``series``.
    """
    return FileSlide(open_file(path, mpp, View(series, z, icc)))


def open_corpus(folder: str | Path, *, device: str = "auto") -> Corpus:
    """Open a corpus of ``wsigen corpus make``: its manifest, and its pairs of slides by name.

    >>> corpus = open_corpus("corpus")  # doctest: +SKIP
    >>> corpus["synthetic-0"].ihc["SYN"].get_thumbnail((256, 256))  # doctest: +SKIP

    Args:
        folder: of the corpus.
        device: of slides that were kept as seeds: "auto", "cpu", "cuda", "cuda:1" or "mps".

    Raises:
        SlideError: the folder holds no corpus, or no slide is finished.
        InvalidValueError: it is one of another version.
    """
    from wsigen.corpus.dataset import Corpus

    return Corpus(folder, device=device)


class Sampler:
    """Sample H&E slides, alone or as pairs with IHC slides.

    >>> sampler = Sampler.from_pretrained("default")
    >>> pair = sampler(size=2048, stages=6, seed=7, stain="SYN")  # doctest: +SKIP

    Made by `from_pretrained`, whose arguments it keeps, with the networks that are loaded already.
    """

    def __init__(
        self, model: str, upscaler: str | None, device: str, dtype: Precision, networks: Networks
    ) -> None:
        self._model, self._upscaler, self._networks = model, upscaler, networks
        self._device = device
        self._dtype: Precision = dtype

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "default",
        *,
        upscaler: str | Path | None = None,
        device: str = "auto",
        dtype: Precision = "auto",
    ) -> Sampler:
        """Load a model.

        Args:
            model: "default" (bundled), a model or snapshot folder, or a hub id.
            upscaler: snapshot folder or hub id of an upscaler to take instead of the model's own.
            device: "auto", "cpu", "cuda", "cuda:1" or "mps".
            dtype: precision of the networks; "auto" is bfloat16 on GPUs that have it, else float32.

        Raises:
            SnapshotError: the model cannot be loaded.
            InvalidValueError: there is no such device.
        """
        networks, chosen = Networks(), choose_device(device)
        choose_dtype(dtype, chosen)
        sampler = cls(str(model), None if upscaler is None else str(upscaler), device, dtype, networks)
        networks.model(sampler._model, sampler._upscaler, chosen)
        return sampler

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of tissue that the model was trained with."""
        return self._networks.model(self._model, self._upscaler, choose_device(self._device)).denoiser.classes

    def to(self, device: str | torch.device) -> Sampler:
        """Return a sampler on another device; networks are loaded there when it is used."""
        return Sampler(self._model, self._upscaler, str(device), self._dtype, self._networks)

    def __call__(
        self,
        *,
        size: int | str | tuple[int, int] | None = None,
        stages: int | None = None,
        seed: int = 0,
        mpp: float | str = 0.5,
        k: int = 2,
        preset: str | Path = "auto",
        class_label: str | None = None,
        guidance: float = 1.0,
        stain: str | Sequence[str] | None = None,
        overview: str | Path | None = None,
        overview_mpp: float | None = None,
        overview_series: int | None = None,
    ) -> Pair:
        """Describe a slide, which is computed when it is read or saved.

        Args:
            size: side in pixels, or (width, height); 2048 if neither it nor an overview is given. A size that
                is no multiple of the denoiser's stride times k**stages is cropped from the next larger one.
            stages: number of upscalings; 6 if neither it nor an overview is given.
            seed: the slide follows from it.
            mpp: µm/px of level 0, or LOW-HIGH, such as "0.45-0.6": the seed's value of that range.
            k: factor between two stages.
            preset: "one-step", "fast", "paper", or a YAML file; "auto" is one-step where the model has an
                upscaler, else fast. Slides of fast and paper must be saved before they can be read.
            class_label: class of the tissue, one of `classes`; None for none.
            guidance: weight of classifier-free guidance; above 1, slides are more typical of the class and
                vary less, and the denoiser's stages take twice the time.
            stain: stainers of the IHC slides, one or several: "SYN" (bundled), a snapshot folder, a hub id.
            overview: H&E picture or slide to start from instead of sampling stage 0.
            overview_mpp: µm/px of it, if the file does not say.
            overview_series: number of its image, for a TIFF or OME-Zarr that holds several.

        Raises:
            InvalidValueError: a value out of range, naming it.
        """
        config = SampleConfig(
            size=size_text(size),
            stages=stages,
            seed=seed,
            mpp=mpp,
            k=k,
            model=self._model,
            upscaler=self._upscaler,
            preset=str(preset),
            class_label=class_label,
            guidance=guidance,
            stain=_joined(stain),
            overview=None if overview is None else Path(overview),
            overview_mpp=overview_mpp,
            overview_series=overview_series,
            device=self._device,
            dtype=self._dtype,
        )
        return SampledPair(config, self._networks)

    def __repr__(self) -> str:
        return f"Sampler({self._model!r}, device={self._device!r}, dtype={self._dtype!r})"


class Translator:
    """Translate H&E slides into IHC slides with one or several stainers.

    >>> translator = Translator.from_pretrained("SYN")
    >>> translator("case1.svs").save("slides")  # doctest: +SKIP

    Made by `from_pretrained`, whose arguments it keeps, with the networks that are loaded already.
    """

    def __init__(
        self, stainer: str, marker: str | None, device: str, dtype: Precision, networks: Networks
    ) -> None:
        self._stainer, self._marker, self._networks = stainer, marker, networks
        self._device = device
        self._dtype: Precision = dtype

    @classmethod
    def from_pretrained(
        cls,
        stainer: str | Path | Sequence[str | Path],
        *,
        marker: str | Sequence[str] | None = None,
        device: str = "auto",
        dtype: Precision = "auto",
    ) -> Translator:
        """Load stainers.

        Args:
            stainer: "SYN" (bundled), a snapshot folder or a hub id; one or several, which share one pass.
            marker: what each stains, for names of files; by default what the stainers state.
            device: "auto", "cpu", "cuda", "cuda:1" or "mps".
            dtype: precision of the networks; float32 on the CPU gives the same bits for any tile.

        Raises:
            SnapshotError: a stainer cannot be loaded.
            InvalidValueError: there is no such device, or a path has a comma.
        """
        networks, chosen = Networks(), choose_device(device)
        precision = choose_dtype(dtype, chosen)
        split_paths(_joined(stainer) or "", "stainer")  # a comma in a path would make two of it
        for name in as_list(stainer):
            networks.stainer(name, chosen, precision)
        return cls(_joined(stainer) or "", _joined(marker), device, dtype, networks)

    def to(self, device: str | torch.device) -> Translator:
        """Return a translator on another device; networks are loaded there when it is used."""
        return Translator(self._stainer, self._marker, str(device), self._dtype, self._networks)

    def __call__(
        self,
        slide: str | Path,
        *,
        norm: str = "dn",
        stats_pitch: int = 512,
        mpp: float | None = None,
        region: tuple[int, int, int, int] | None = None,
        mask: str | Path | None = None,
        mask_class: str | None = None,
        series: int | None = None,
        z: int | None = None,
        icc: Literal["srgb"] | None = None,
        skip_damaged: bool = False,
    ) -> Pair:
        """Describe the translation of a slide, which is computed when it is read or saved.

        Args:
            slide: H&E, in any format that `open_slide` reads.
            norm: "dn" (dense, interpolated), "kin" (kernel-averaged), "tin" (thumbnail) or "in" (per patch,
                which shows seams). With dn, regions can be read before the slide is saved.
            stats_pitch: px from one patch of statistics to the next, a multiple of 4 of at least 512.
            mpp: µm/px of the slide, if the file does not state it.
            region: x, y, width and height in level-0 pixels of the region that is translated; its pixels are
                those of the whole slide. None for the whole slide.
            mask: outside which the slide is shown as background: GeoJSON of QuPath, a PNG or TIFF that is 0
                there, or a folder with one of these named like the slide.
            mask_class: class of the polygons that count, as QuPath names it; None for all.
            series: number of the slide's image, for a TIFF or OME-Zarr that holds several.
            z: number of the slide's focus plane, from 0, for an OME-TIFF or OME-Zarr that holds several.
            icc: "srgb" to convert the slide's colours by its ICC profile; None to leave them as stored.
            skip_damaged: show damaged tiles of the slide as background, and log how many when it is saved; by
                default they are errors.

        Raises:
            InvalidValueError: a value out of range, naming it.
        """
        config = TranslateConfig(
            slide=Path(slide),
            **self._shared(region, mask),
            norm=norm,
            stats_pitch=stats_pitch,
            mpp=mpp,
            mask_class=mask_class,
            series=series,
            z=z,
            icc=icc,
            skip_damaged=skip_damaged,
        )
        return TranslatedPair(config, self._networks)

    def save_all(
        self,
        slides: Paths,
        out: str | Path = "slides",
        *,
        norm: str = "dn",
        stats_pitch: int = 512,
        mpp: float | None = None,
        table: str | Path | None = None,
        region: tuple[int, int, int, int] | None = None,
        mask: str | Path | None = None,
        mask_class: str | None = None,
        series: int | None = None,
        z: int | None = None,
        icc: Literal["srgb"] | None = None,
        skip_damaged: bool = False,
        layout: Layout = "linked-ome",
        memory: str = "4GiB",
        overwrite: bool = False,
    ) -> list[Outcome]:
        """Translate many slides and write them; slides that fail are passed over.

        The same call again skips finished slides and continues. The outcomes are also in
        ``OUT/translate.csv``, which is written after every slide.

        Args:
            slides: H&E slides and folders, one or several; sub-folders are kept below ``out``.
            out: folder to write to.
            norm: like stats_pitch, mpp, region, mask, mask_class, series, z, icc and skip_damaged as in a
                call for one slide; each holds for every slide. Masks are then a folder with one named like
                each slide.
            table: CSV with columns slide, and any of mpp, series, z, for what the files do not say.
            layout: "linked-ome", "generic" or "lossless".
            memory: that may be used, such as "8GiB".
            overwrite: replace slides of the same name.

        Returns:
            The outcome of each slide, in order.

        Raises:
            InvalidValueError: a value out of range, or two slides would be written to one file.
            SlideError: there is no slide.
            PathError: ``table`` cannot be read.
            OutputError: the outcomes cannot be written.
        """
        config = TranslateSlidesConfig(
            slide=[Path(path) for path in as_list(slides)],
            **self._shared(region, mask),
            out=Path(out),
            norm=norm,
            stats_pitch=stats_pitch,
            mpp=mpp,
            table=None if table is None else Path(table),
            mask_class=mask_class,
            series=series,
            z=z,
            icc=icc,
            skip_damaged=skip_damaged,
            layout=layout,
            memory=memory,
            overwrite=overwrite,
        )
        return translate_slides(config, self._networks)

    def _shared(self, region: tuple[int, int, int, int] | None, mask: str | Path | None) -> dict[str, Any]:
        """Return what does not differ between one slide and many, as the configurations take it."""
        return {
            "stainer": self._stainer,
            "marker": self._marker,
            "region": None if region is None else ",".join(map(str, region)),
            "mask": None if mask is None else Path(mask),
            "device": self._device,
            "dtype": self._dtype,
        }

    def __repr__(self) -> str:
        return f"Translator({self._stainer!r}, device={self._device!r}, dtype={self._dtype!r})"


def evaluate(
    *,
    real: Paths,
    generated: Paths | None = None,
    compare: Mapping[str, Paths] | None = None,
    train: Paths | None = None,
    pairs: Paths | None = None,
    real_pairs: Paths | None = None,
    table: str | Path | None = None,
    generated_mpp: float | None = None,
    real_mpp: float | None = None,
    mpp: float | Sequence[float] = (0.5, 1.0, 4.0, 16.0),
    patch: int = 512,
    patches: int = 2000,
    stain: Literal["he", "ihc"] = "he",
    features: str = "weight-free",
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
) -> Report:
    """Compare generated slides with real ones; every measure beside the same between real and real.

    >>> report = evaluate(generated="slides", real="real")  # doctest: +SKIP
    >>> report.to_frame()  # doctest: +SKIP

    Args:
        real: real slides: folders, files or patterns, one or several.
        generated: slides to judge.
        compare: further sets of slides to judge, by name.
        train: slides that the model was trained on, to look for copies.
        pairs: IHC slides of the generated H&E slides.
        real_pairs: real slides of the same IHC stain.
        table: CSV with columns slide, and optionally mpp, group, split.
        generated_mpp: µm/px of slides to judge whose files do not state it, such as PNG patches.
        real_mpp: µm/px of real slides for which neither the file nor the table states it.
        mpp: µm/px to compare at, one or several.
        patch: side of the patches, px.
        patches: patches a side, shared between the values of ``mpp``.
        stain: "ihc" where all slides are IHC.
        features: weight-free, inception, inception:PATH, timm:NAME or transformers:NAME.
        seed: of patches and draws.
        device: where networks of features run.
        workers: threads; 0 for one a core.

    Raises:
        SlideError: a set has no slide that can be used.
        InvalidValueError: nothing can be compared, or a value out of range.
        SnapshotError: the features' weights could not be loaded.
    """
    from wsigen.evaluation.run import measure  # takes a second to import

    config = EvaluateConfig(
        real=as_list(real),
        generated=as_list(generated) or None,
        compare=[f"{name}={path}" for name, paths in (compare or {}).items() for path in as_list(paths)]
        or None,
        train=as_list(train) or None,
        pairs=as_list(pairs) or None,
        real_pairs=as_list(real_pairs) or None,
        table=None if table is None else Path(table),
        generated_mpp=generated_mpp,
        real_mpp=real_mpp,
        mpp=mpp if isinstance(mpp, str | float | int) else list(mpp),
        patch=patch,
        patches=patches,
        stain=stain,
        features=features,
        seed=seed,
        device=device,
        workers=workers,
    )
    return measure(config)


def view(slides: Slide | Pair | Paths, *, height: int = 640) -> Viewing:
    """Show slides in a notebook, as ``wsigen view`` does in a browser; needs ``pip install 'wsigen[view]'``.

    >>> wsigen.view(wsigen.SyntheticSlide(seed=7, stain="SYN"))  # doctest: +SKIP

    Args:
        slides: a slide, which may be computed where it is looked at; a pair; or files and folders.
        height: of the frame in the cell, px.

    Returns:
        The viewer, with its address in ``url``. It listens on this machine only, until ``close()`` or the end
        of the process.

    Raises:
        SlideError: none of the files can be read.
        InvalidValueError: what the viewer needs is not installed.
    """
    # needs packages of its own, which may be missing
    from wsigen.viewer.catalogue import Catalogue, open_catalogue, slide_case
    from wsigen.viewer.notebook import Viewing

    if not isinstance(slides, Slide | Pair):
        return Viewing(open_catalogue([Path(path) for path in as_list(slides)]), height)
    he = slides.he if isinstance(slides, Pair) else slides
    stained = slides.ihc if isinstance(slides, Pair | SyntheticSlide) else {}
    case = slide_case(he, {f"IHC-{marker}": slide for marker, slide in stained.items()})
    return Viewing(Catalogue([case]), height)


def _joined(names: str | Path | Sequence[str | Path] | None) -> str | None:
    """Return names as the commands take them, separated by commas; None for none."""
    return ",".join(as_list(names)) or None
