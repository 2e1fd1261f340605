"""From a configuration to a report: read patches, describe, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from wsigen.config.evaluate import REAL, TRAIN, EvaluateConfig
from wsigen.evaluation.comparison import Comparison, real_patches
from wsigen.evaluation.copies import SimilarSlides, nearest_slide_rows, overview_rows
from wsigen.evaluation.features import Extractor, load_extractor
from wsigen.evaluation.fidelity import fidelity_rows
from wsigen.evaluation.gallery import Gallery
from wsigen.evaluation.inputs import Inputs, config_dict, load_inputs, versions
from wsigen.evaluation.pairs import domain_rows, pair_rows, pair_up
from wsigen.evaluation.patches import SAMPLES, Patches, join, read_patches
from wsigen.evaluation.phase import phase_rows
from wsigen.evaluation.privacy import privacy_rows, unknown_training
from wsigen.evaluation.realism import realism_rows
from wsigen.evaluation.report.pictures import neighbour_sheet, overview_sheet, sheet, strip
from wsigen.evaluation.results import Report, Result, SetReport
from wsigen.evaluation.samples import Samples, measure_samples, real_samples, sample_rows
from wsigen.evaluation.scales import scale_rows
from wsigen.evaluation.seam_classifier import Training, visibility_rows
from wsigen.evaluation.seams import seam_rows
from wsigen.evaluation.sets import ScalePlan, SlideSet
from wsigen.evaluation.spectrum import spectrum_rows
from wsigen.evaluation.spots import Reader, spots
from wsigen.evaluation.stains import DENSITY_CENTRES, density_curves, stain_rows
from wsigen.evaluation.tilings import tiling_rows
from wsigen.runtime import choose_device, usable_cpus
from wsigen.slide.nuclei import COARSEST_MPP


def measure(config: EvaluateConfig, *, progress: bool = True) -> Report:
    """Compare sets of slides with real ones; write nothing (`Report.save` does).

    Args:
        config: the sets to compare, and the options.
        progress: show a bar.

    Raises:
        SlideError: a set has no slide that can be used.
        InvalidValueError: nothing can be compared, or an option that cannot be.
        SnapshotError: the features' weights could not be downloaded or read.

    Memory:
        Features and signatures of the patches, some whole patches of one µm/px, and one window of 4096 px;
        however large the slides are.

    Determinism:
        The numbers follow from configuration, slides and versions, not from the number of threads.
    """
    inputs = load_inputs(config)
    threads = config.workers or usable_cpus()
    # MPS has no float64
    extractor = load_extractor(config.features, choose_device(config.device, mps=False), threads)
    total = sum(sum(a.values()) for p in inputs.plans for a in p.allotted.values())
    with tqdm(total=total, unit="patch", disable=not progress) as bar:
        return Evaluation(inputs, extractor, threads, bar).report()


class Evaluation:
    """A running evaluation: rows, pictures, curves and warnings as they are found.

    Args:
        inputs: the slides to compare.
        extractor: of features.
        threads: that read and describe.
        bar: of progress, by patches.
    """

    def __init__(self, inputs: Inputs, extractor: Extractor, threads: int, bar: Any) -> None:
        self.inputs, self.extractor, self.threads, self.bar = inputs, extractor, threads, bar
        self.config, self.seed = inputs.config, inputs.config.seed
        self.reader = Reader(self.seed)
        self.stains = "h-e" if self.config.stain == "he" else "h-dab"
        device = choose_device(self.config.device, mps=False)
        self.training = Training(self.config.joint_classifiers, device, self.seed)
        self.rows: dict[str, list[Result]] = {s.name: [] for s in inputs.sets}
        self.warnings = [*inputs.warnings, *(w for p in inputs.plans for w in p.warnings)]
        self.read: dict[str, list[Patches]] = {}
        self.pictures: dict[str, bytes] = {}
        self.captions: dict[str, list[str]] = {}
        self.curves: dict[str, Any] = {}

    def report(self) -> Report:
        """Compare everything."""
        for plan in self.inputs.plans:
            self._compare_at(plan)
        if len(self.inputs.plans) > 1:
            self._compare_together()
        for one in self.inputs.sets:
            self._whole_slides(one)
        self._pairs()
        return self._assembled()

    def _compare_at(self, plan: ScalePlan) -> None:
        """Compare all sets at one µm/px."""
        # twice as many samples, so that either half has as many as a set
        every = self._read(self.inputs.real, plan, 2 * SAMPLES)
        reals = real_patches(every, {plan.mpp: plan.count}, self.seed)
        train = None
        if self.inputs.train and plan.allotted.get(TRAIN):
            train = self._read(self.inputs.train, plan, 0)
            self._keep(TRAIN, train, plan, None)
        beside = real_samples(self._samples(every, plan), plan.mpp, self.seed)
        gallery = self._gallery(every, train, plan)
        self._keep(REAL, every, plan, beside.every)
        for one in self.inputs.sets:
            patches = self._read(one, plan, SAMPLES)
            self.bar.set_description(f"{plan.mpp:g} µm/px, comparing {one.name}")
            comparison = Comparison(patches, reals, plan.mpp)
            samples = self._samples(patches, plan)
            rows = self.rows[one.name]
            for measure in (fidelity_rows, realism_rows, spectrum_rows, phase_rows):
                rows += measure(comparison)
            rows += stain_rows(comparison, self.stains)
            rows += sample_rows(Comparison(samples, beside, plan.mpp))
            self._privacy(comparison, gallery, one.name, plan)
            self._keep(one.name, patches, plan, samples)

    def _compare_together(self) -> None:
        """Compare at all µm/px in one, without those at which the real slides cannot be halved."""
        self.bar.set_description("comparing all µm/px together")
        counts = {p.mpp: p.count for p in self.inputs.plans}
        halved = [i for i, real in enumerate(self.read[REAL]) if len(set(real.groups)) > 1]
        if len(halved) < 2:
            self.warnings.append("µm/px are not compared together: too few have two real slides or cases")
            return
        if len(halved) < len(counts):
            left = [f"{m:g}" for i, m in enumerate(counts) if i not in halved]
            self.warnings.append(
                f"not pooled, since there is one real slide or case: {', '.join(left)} µm/px"
            )
        # one case has no halves that share none
        reals = real_patches(join([self.read[REAL][i] for i in halved]), counts, self.seed)
        for one in self.inputs.sets:
            ours = join([self.read[one.name][i] for i in halved])
            comparison = Comparison(ours, reals, None)
            self.rows[one.name] += [*fidelity_rows(comparison), *realism_rows(comparison)]

    def _whole_slides(self, one: SlideSet) -> None:
        self.bar.set_description(f"seams and scales of {one.name}")
        real, rows = self.inputs.real, self.rows[one.name]
        seams, profiles = seam_rows(one, real, seed=self.seed)
        rows += [*seams, *scale_rows(one, real, seed=self.seed)]
        rows += [] if self.inputs.train else unknown_training()
        found, similar = overview_rows(one, real, self.inputs.train)
        near, nearest = nearest_slide_rows(one, real, self.inputs.train, self.extractor)
        rows += [*found, *near]
        self._show_slides(f"overviews {one.name}", similar)
        self._show_slides(f"nearest slides {one.name}", nearest)
        if one is not self.inputs.sets[0]:
            rows += tiling_rows(one, self.inputs.sets[0])
        self.curves.setdefault("seam profiles", {})[one.name] = profiles
        self._visibility(one, real, one.name)

    def _show_slides(self, key: str, similar: Sequence[SimilarSlides]) -> None:
        if similar:
            self.pictures[key] = overview_sheet(similar)
            self.captions[key] = [f"{s.ours.slide}: {s.theirs.slide}, {s.distance:.2f}" for s in similar]

    def _gallery(self, real: Patches, train: Patches | None, plan: ScalePlan) -> Gallery:
        self.bar.set_description(f"{plan.mpp:g} µm/px, neighbours of real patches")
        slides = self.inputs.real if train is None else self.inputs.train
        assert slides is not None
        options = {"patch": self.config.patch, "seed": self.seed, "threads": self.threads}
        return Gallery(real, train, slides, mpp=plan.mpp, **options)

    def _privacy(self, comparison: Comparison, gallery: Gallery, name: str, plan: ScalePlan) -> None:
        rows, neighbours, distances = privacy_rows(comparison, gallery)
        self.rows[name] += rows
        if neighbours:
            key, slides = f"neighbours {name} {plan.mpp:g}", gallery.area.entries
            self.pictures[key] = neighbour_sheet(neighbours, slides, self.reader)
            self.captions[key] = [f"{slides[n.slide].slide}, {n.distance:.2f}" for n in neighbours]
        if plan is self.inputs.plans[0] and distances is not None:
            # the finest µm/px only, where copies would be seen first
            nearest = self.curves.setdefault("nearest", {"real": gallery.real_pixels})
            nearest[name] = distances

    def _pairs(self) -> None:
        inputs = self.inputs
        if inputs.ihc is None:
            return
        self.bar.set_description("pairs")
        he = inputs.sets[0]
        found = pair_rows(
            he,
            inputs.ihc,
            inputs.real_ihc,
            mpp=inputs.plans[0].mpp,
            patch=self.config.patch,
            reader=self.reader,
            seed=self.seed,
            threads=self.threads,
        )
        self.rows[he.name] += found.rows
        self.warnings += found.warnings
        self.pictures["pairs"] = sheet(found.shown)
        seams, profiles = seam_rows(inputs.ihc, he, seed=self.seed)
        # without a label, "IHC" alone
        self.rows[he.name] += [replace(r, label=f"IHC: {r.label}".rstrip(": ")) for r in seams]
        self.curves["seam profiles"]["IHC"] = profiles
        self._visibility(inputs.ihc, he, he.name, "IHC: ")
        if self.config.joint_classifiers and inputs.real_ihc:
            pairs, _ = pair_up(he, inputs.ihc)
            self.rows[he.name] += domain_rows(pairs, inputs.real, inputs.real_ihc, self.reader, self.training)

    def _visibility(self, one: SlideSet, without: SlideSet, name: str, mark: str = "") -> None:
        if self.config.joint_classifiers:
            self.bar.set_description(f"classifiers of seams, {one.name}")
            self.rows[name] += visibility_rows(one, without, self.training, mark=mark)

    def _read(self, one: SlideSet, plan: ScalePlan, keep: int) -> Patches:
        self.bar.set_description(f"{plan.mpp:g} µm/px, {one.name}")
        found = read_patches(
            spots(one.entries, plan.allotted[one.name], plan.mpp, self.config.patch),
            self.reader,
            self.extractor,
            stains=self.stains,
            keep=keep,
            threads=self.threads,
            progress=self.bar.update,
        )
        self.warnings += [f"{one.name}, {plan.mpp:g} µm/px: {w}" for w in found.warnings]
        return found

    def _samples(self, patches: Patches, plan: ScalePlan) -> Samples:
        chosen = sorted(patches.samples)
        images, groups = [patches.samples[i] for i in chosen], [patches.groups[i] for i in chosen]
        return measure_samples(images, groups, plan.mpp, stains=self.stains, threads=self.threads)

    def _keep(self, name: str, patches: Patches, plan: ScalePlan, samples: Samples | None) -> None:
        """Keep features for later, and show the patches of a set, with curves at the finest µm/px."""
        self.read.setdefault(name, []).append(patches.without_samples())
        if samples is None:
            return
        self.pictures[f"patches {name} {plan.mpp:g}"] = strip(patches, seed=self.seed)
        if plan is not self.inputs.plans[0]:
            return
        densities = self.curves.setdefault("densities", {"od": DENSITY_CENTRES})
        densities[name] = density_curves(patches)
        if plan.mpp <= COARSEST_MPP:
            self.curves.setdefault("nuclei", {})[name] = [a for n in samples.nuclei for a in n.areas]

    def _assembled(self) -> Report:
        inputs, extractor = self.inputs, self.extractor
        features = {key: getattr(extractor, key) for key in ("name", "dimensions", "comparable")}
        if not extractor.comparable:
            self.warnings.insert(
                0,
                f"features are {extractor.name}: distances compare with one another only, never with "
                "published FIDs",
            )
        references = [inputs.real, *([inputs.train] if inputs.train else [])]
        return Report(
            config=config_dict(self.config),
            versions=versions(),
            features=features,
            scales=tuple(p.mpp for p in inputs.plans),
            counts={f"{p.mpp:g}": p.count for p in inputs.plans},
            sets=tuple(self._set(s) for s in inputs.sets),
            references=tuple(self._set(s) for s in references),
            warnings=tuple(dict.fromkeys(self.warnings)),
            pictures=self.pictures,
            captions=self.captions,
            curves=self.curves,
        )

    def _set(self, one: SlideSet) -> SetReport:
        left_out = tuple(f"{f.slide}: {f.reason}" for f in one.failures)
        results = tuple(r.bounded() for r in self.rows.get(one.name, ()))
        return SetReport(one.name, self.inputs.shares(one), results, left_out)
