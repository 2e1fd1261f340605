"""A slide that is never made, read like one in a file: its pixels are computed where they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from wsigen.config import SampleConfig
from wsigen.config.sample import size_text
from wsigen.pipeline.levels import HELevels, IHCLevels, open_cascade
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.outputs import Output
from wsigen.pipeline.sample import open_run
from wsigen.runtime import parse_bytes
from wsigen.slide.levels import Slide
from wsigen.slide.provenance import complete_provenance, flatten


class SyntheticSlide(Slide):
    """An H&E slide as a function of its seed, with the interface of ``openslide.OpenSlide``.

    Any region of any level takes about the same time and memory, whatever the size of the slide. Level 0 is
    what ``sample`` writes with these values, before compression. Level l is the stage of the cascade that has
    2^l times the µm/px: what the finer levels were made from. Their means follow it, within the error that
    the upscaler leaves in its guide; in the file of ``sample`` coarser levels are these means.

    Args:
        seed: determines the slide.
        size: side in pixels, or (width, height).
        stages: number of upscalings; the slide has one level more.
        mpp: µm/px of level 0, or LOW-HIGH, such as "0.45-0.6": the seed's value of that range.
        model: "default" (bundled), a model folder, or a hub id; with an upscaler.
        upscaler: snapshot folder or hub id of an upscaler to use instead of the model's own.
        preset: "one-step", or a YAML file of a preset whose finer stages are the upscaler's.
        overview: picture or slide to start from instead of sampling stage 0: H&E. Size and stages
            then follow from it and ``mpp``.
        overview_mpp: µm/px of the overview, if the file does not state it.
        overview_series: number of the overview's image, for a TIFF or OME-Zarr that holds several.
        class_label: class of the tissue, one of those that the model was trained with; None for none.
        guidance: weight of classifier-free guidance; above 1, the slide is more typical of the class.
        stain: stainers of IHC slides: "SYN" (bundled), a snapshot folder or a hub id; several separated by
            commas. The slides are in ``ihc``.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: precision of the networks.
        cache: memory for levels that were computed, such as "512MiB", or a number of bytes.
        k: factor between two stages.
        networks: where loaded networks are kept, to be shared with other slides and runs.

    Memory: the cache, stage 0, 37 MiB for each stage, and the features of the upscaler for 342 × 342 guide
        pixels: about 1 GiB in all. A region that is read comes on top.

    Determinism: pixels do not depend on the regions read, their order, the threads that read or the cache: in
        float32 on the CPU bit for bit, elsewhere up to rounding. Several threads may read; one at a time
        computes. PyTorch's number of threads (``OMP_NUM_THREADS``) changes the rounding of stages that the
        denoiser makes.

    Raises:
        SnapshotError: the model or a stainer cannot be loaded.
        InvalidValueError: a value is out of range, the size does not fit, the preset diffuses its last
            stages, or the model has no upscaler or no such class.
    """

    def __init__(
        self,
        *,
        seed: int = 7,
        size: int | str | tuple[int, int] = 65536,
        stages: int = 7,
        mpp: float | str = 0.5,
        model: str | Path = "default",
        upscaler: str | Path | None = None,
        preset: str | Path = "one-step",
        overview: str | Path | None = None,
        overview_mpp: float | None = None,
        overview_series: int | None = None,
        class_label: str | None = None,
        guidance: float = 1.0,
        stain: str | None = None,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        cache: str | int = "512MiB",
        k: int = 2,
        networks: Networks | None = None,
    ) -> None:
        kept = parse_bytes(str(cache), "cache")  # before networks are loaded
        config = SampleConfig(
            seed=seed,
            size=None if overview else size_text(size),  # follows from the overview, like stages
            stages=None if overview else stages,
            mpp=mpp,
            k=k,
            model=str(model),
            upscaler=None if upscaler is None else str(upscaler),
            preset=str(preset),
            overview=None if overview is None else Path(overview),
            overview_mpp=overview_mpp,
            overview_series=overview_series,
            class_label=class_label,
            guidance=guidance,
            stain=stain,
            device=device,
            dtype=dtype,
        )
        run = open_run(config, networks)
        (he,), downsamples = run.slides, [k**level for level in range(len(run.plan.stages))]
        cascade = open_cascade(run, he, cache=kept)
        super().__init__(HELevels(cascade), downsamples, he.mpp, properties(he))
        self._seed = seed
        self._ihc: dict[str, Slide] = {}
        for which, output in enumerate(he.ihc):
            assert run.stainers is not None, "slides with stains come with stainers"
            levels = IHCLevels(cascade, run.stainers, which)
            self._ihc[output.stain.marker] = Slide(levels, downsamples, he.mpp, properties(output))

    @property
    def ihc(self) -> Mapping[str, Slide]:
        """The IHC slides by their markers, with the same interface.

        Level 0 is what ``sample`` writes. Level l is the H&E's level l, translated as a slide of its own.
        """
        return dict(self._ihc)

    def close(self) -> None:
        """Free networks and cache; neither this slide nor its IHC slides can be read any more."""
        for slide in self._ihc.values():
            slide.close()
        super().close()

    def __repr__(self) -> str:
        width, height = self.dimensions
        return f"SyntheticSlide(seed={self._seed}, {width} x {height} px at {self._mpp:g} µm/px)"


def properties(output: Output) -> dict[str, str]:
    """Return what a slide's pixels follow from, as properties of OpenSlide's kind."""
    facts = {**output.facts(), "fingerprint": output.fingerprint()}
    flat = flatten(complete_provenance(facts, output.mpp, output.size.height, output.size.width))
    return {f"wsigen.{key}": value for key, value in flat.items()}
