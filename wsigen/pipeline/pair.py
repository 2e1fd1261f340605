"""Pairs of an H&E slide and its IHC slides, computed when they are read and written when they are saved."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from wsigen.config import SampleConfig, TranslateConfig
from wsigen.pipeline import sample, translate
from wsigen.pipeline.levels import FileIHCLevels
from wsigen.pipeline.networks import Networks
from wsigen.pipeline.outputs import HEOutput, IHCOutput, Output
from wsigen.pipeline.run import Run
from wsigen.pipeline.source import SIZE, STAGES
from wsigen.pipeline.synthetic import SyntheticSlide, properties
from wsigen.slide.levels import FileSlide, LevelSource, RegionLevels, Slide
from wsigen.slide.read import open_slide
from wsigen.slide.view import View
from wsigen.slide.write import Layout, SlideFiles


class Pair(ABC):
    """An H&E slide and its IHC slides, on one grid; made by `Sampler` and `Translator`.

    Before `save`, regions are computed when they are read; after it, they are read from the files.

    Attributes:
        files: those that the last `save` wrote; slides that existed already are not among them.
    """

    def __init__(self) -> None:
        self.files: tuple[SlideFiles, ...] = ()
        self._outputs: tuple[Output, ...] = ()

    @property
    @abstractmethod
    def he(self) -> Slide:
        """The H&E slide.

        Raises:
            InvalidValueError: the preset diffuses the last stages, so that no region can be computed alone;
                save first.
        """

    @property
    @abstractmethod
    def ihc(self) -> Mapping[str, Slide]:
        """The IHC slides by their markers, such as "SYN".

        Raises:
            InvalidValueError: as `he`; or the normalisation needs the whole slide; save first.
        """

    def save(
        self,
        out: str | Path = "slides",
        *,
        name: str | None = None,
        layout: Layout = "linked-ome",
        memory: str | None = None,
        overwrite: bool = False,
    ) -> Pair:
        """Write the slides that do not exist yet; interrupted, the same call continues.

        Args:
            out: folder to write to.
            name: base name of the files; by default "synthetic-SEED", or the H&E's without "_HE".
            layout: "linked-ome", "generic" or "lossless".
            memory: that may be used, such as "8GiB"; by default that of the command.
            overwrite: replace slides of the same name.

        Returns:
            This pair, which then reads from the files.

        Raises:
            OutputError: a slide exists, or cannot be written.
            InvalidValueError: the run does not fit into memory, or a network returned NaN.
        """
        # several: a slide that exists already is passed over, and no error
        run = replace(self._run(Path(out), name, layout, memory, overwrite), several=True)
        self.files = tuple(run.make())
        self._outputs = tuple(output for group in run.groups for output in group)
        return self

    @abstractmethod
    def _run(self, out: Path, name: str | None, layout: Layout, memory: str | None, overwrite: bool) -> Run:
        """Resolve what `save` does."""

    def _saved_ihc(self) -> Mapping[str, Slide]:
        ihc = [output for output in self._outputs if isinstance(output, IHCOutput)]
        return {output.stain.marker: FileSlide(open_slide(output.slide)) for output in ihc}

    def _repr_html_(self) -> str:
        """Return the thumbnails side by side, for notebooks."""
        slides = {"H&E": self.he, **self.ihc}
        figures = "".join(f"<div><b>{html.escape(k)}</b>{s._repr_html_()}</div>" for k, s in slides.items())
        return f'<div style="display:flex;gap:1em">{figures}</div>'


class SampledPair(Pair):
    """A synthetic H&E slide and its IHC slides; see `Sampler`.

    Args:
        config: of the sample command that makes the same slides.
        networks: those that are loaded.
    """

    def __init__(self, config: SampleConfig, networks: Networks) -> None:
        super().__init__()
        self._config, self._networks = config, networks

    @property
    def he(self) -> Slide:
        """The H&E slide."""
        saved = [output.slide for output in self._outputs if isinstance(output, HEOutput)]
        return FileSlide(open_slide(saved[0])) if saved else self._computed

    @property
    def ihc(self) -> Mapping[str, Slide]:
        """The IHC slides by their markers."""
        return self._saved_ihc() or self._computed.ihc

    @cached_property
    def _computed(self) -> SyntheticSlide:
        c = self._config
        return SyntheticSlide(
            seed=c.seed,
            size=SIZE if c.size is None else c.size,
            stages=STAGES if c.stages is None else c.stages,
            mpp=c.mpp,
            model=c.model,
            upscaler=c.upscaler,
            preset=c.preset,
            overview=c.overview,
            overview_mpp=c.overview_mpp,
            overview_series=c.overview_series,
            class_label=c.class_label,
            guidance=c.guidance,
            stain=c.stain,
            device=c.device,
            dtype=c.dtype,
            k=c.k,
            networks=self._networks,
        )

    def _run(self, out: Path, name: str | None, layout: Layout, memory: str | None, overwrite: bool) -> Run:
        memory = memory or self._config.memory
        config = replace(self._config, out=out, name=name, layout=layout, memory=memory, overwrite=overwrite)
        return sample.open_run(config, self._networks)

    def __repr__(self) -> str:
        c = self._config
        return f"Pair(seed={c.seed}, size={c.size or 'default'}, mpp={c.mpp}, stain={c.stain!r})"


class TranslatedPair(Pair):
    """An H&E slide in a file and its IHC slides; see `Translator`.

    Args:
        config: of the translate command that makes the same slides.
        networks: those that are loaded.
    """

    def __init__(self, config: TranslateConfig, networks: Networks) -> None:
        super().__init__()
        self._config, self._networks = config, networks

    @cached_property
    def he(self) -> Slide:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The H&E slide, or its region, that is translated."""
        c = self._config
        slide = open_slide(c.slide, c.mpp, View(c.series, c.z, c.icc))
        return FileSlide(slide, translate.region_of(c, slide))

    @property
    def ihc(self) -> Mapping[str, Slide]:
        """The IHC slides by their markers."""
        return self._saved_ihc() or self._computed

    @cached_property
    def _computed(self) -> Mapping[str, Slide]:
        run = translate.open_run(self._config, self._networks)
        downsamples = [level.downsample for level in run.slide.levels]
        found = {}
        for which, output in enumerate(run.outputs):
            source: LevelSource = FileIHCLevels(run.slide, run.stainers, which, run.mask)
            if run.region is not None:
                source, downsamples = RegionLevels(source, run.region), [1.0]
            found[output.stain.marker] = Slide(source, downsamples, run.slide.mpp, properties(output))
        return found

    def _run(self, out: Path, name: str | None, layout: Layout, memory: str | None, overwrite: bool) -> Run:
        memory = memory or self._config.memory
        config = replace(self._config, out=out, name=name, layout=layout, memory=memory, overwrite=overwrite)
        return translate.open_run(config, self._networks)

    def __repr__(self) -> str:
        return f"Pair({str(self._config.slide)!r}, stainer={self._config.stainer!r})"
