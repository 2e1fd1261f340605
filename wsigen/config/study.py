"""Options of ``wsigen study make``, ``serve`` and ``report``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsigen.config.check import check, check_mpp, is_positive
from wsigen.config.evaluate import as_list

TWO_SETS = ("slider", "2afc")
PORT = 8766


@dataclass(frozen=True, kw_only=True)
class StudyMakeConfig:
    """One call of ``wsigen study make``.

    Args:
        kind: slider (one image: 0 certainly synthetic … 100 certainly real), 2afc (one real and one synthetic
            image: which is real?), quality (one source and its translations: which is best?) or paired (an
            H&E and an IHC image: do they belong together?).
        real: real slides; of slider and 2afc. The flag takes several paths, and may be repeated.
        synthetic: synthetic slides; of slider and 2afc.
        source: H&E slides; of quality and paired.
        translation: their IHC slides; of quality NAME=PATHS, repeated for every method to compare. a_IHC-SYN
            belongs to a_HE.
        out: folder of the study.
        count: number of items, not counting training and repeats; of slider and paired even, half of each.
        training: number of further items that are shown first, with the solution, and do not count; not of
            quality, which has none.
        repeats: number of items that every reader sees twice, for the agreement of readers with themselves.
        readers: number of readers, each with a code.
        mpp: µm/px of the images.
        size: side of the images, px.
        whole_slides: show whole slides, one an item, in the middle of images of --size; 512 px at 32 µm/px
            show a slide of 16 mm.
        seconds: time that the images of an item are shown; by default 10 for 2afc, 30 for quality, 0 (no
            limit) for the others.
        question: of quality; repeated for several. By default: overall quality, tile borders, colour and
            contrast.
        stain: "he", or "ihc" where --real and --synthetic are IHC slides.
        table: CSV with columns slide, and any of mpp, group, of the real (or source) slides.
        real_mpp: µm/px of real (or source) slides for which neither the file nor the table states it.
        synthetic_mpp: µm/px of synthetic slides (or translations) whose files do not state it.
        seed: of places, order and codes.
        overwrite: replace a study that nobody has answered yet.
    """

    kind: Literal["slider", "2afc", "quality", "paired"] = "slider"
    real: list[str] | str | None = None
    synthetic: list[str] | str | None = None
    source: list[str] | str | None = None
    translation: list[str] | str | None = None
    out: Path = Path("study")
    count: int = 40
    training: int = 0
    repeats: int = 0
    readers: int = 3
    mpp: float = 0.5
    size: int = 1024
    whole_slides: bool = False
    seconds: int | None = None
    question: list[str] = field(default_factory=list)
    stain: Literal["he", "ihc"] = "he"
    table: Path | None = None
    real_mpp: float | None = None
    synthetic_mpp: float | None = None
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        self._check_slides()
        check(self.count >= 2, "--count", self.count, "at least 2")
        halves = self.kind in ("slider", "paired")
        even = f"even, half of each kind, such as {self.count + 1}"
        check(not halves or self.count % 2 == 0, "--count", self.count, even)
        check(self.training >= 0, "--training", self.training, ">= 0")
        solved = self.kind != "quality"
        check(solved or not self.training, "--training", self.training, "0 with --kind quality: no solution")
        even = f"even, half of each kind, such as {self.training + 1}"
        check(not halves or self.training % 2 == 0, "--training", self.training, even)
        if self.kind == "paired":  # wrong pairs are made of the images of two of them
            check(self.count >= 4, "--count", self.count, "at least 4 with --kind paired")
            check(self.training != 2, "--training", self.training, "0, or at least 4 with --kind paired")
        check(0 <= self.repeats <= self.count, "--repeats", self.repeats, f"0 to --count, {self.count}")
        check(1 <= self.readers <= 1000, "--readers", self.readers, "1 to 1000")
        check(is_positive(self.mpp, 1000), "--mpp", repr(self.mpp), "a number in (0, 1000] µm/px")
        check(64 <= self.size <= 8192, "--size", self.size, "64 to 8192 px")
        check(self.seconds is None or self.seconds >= 0, "--seconds", self.seconds, "0 (no limit) or more")
        check(not self.question or self.kind == "quality", "--question", self.question, "given with quality")
        check_mpp(self.real_mpp, "--real-mpp")
        check_mpp(self.synthetic_mpp, "--synthetic-mpp")
        check(0 <= self.seed < 2**63, "--seed", self.seed, "between 0 and 2**63")

    def _check_slides(self) -> None:
        needed = ("real", "synthetic") if self.kind in TWO_SETS else ("source", "translation")
        for name in ("real", "synthetic", "source", "translation"):
            value, wanted = getattr(self, name), name in needed
            expected = "slides or folders of slides" if wanted else "left out"
            check(bool(value) == wanted, f"--{name}", value, f"{expected} with --kind {self.kind}")
        if self.kind == "quality":
            several = len(self.translations) >= 2
            check(several, "--translation", self.translation, "NAME=PATHS of at least 2 methods to compare")

    @property
    def translations(self) -> dict[str, list[str]]:
        """The paths of every method, by name; of ``paired`` one, IHC."""
        if self.kind == "paired":
            return {"IHC": as_list(self.translation)}
        found: dict[str, list[str]] = {}
        for item in as_list(self.translation):
            name, equals, path = item.partition("=")
            check(bool(name and equals and path), "--translation", repr(item), "NAME=PATHS")
            found.setdefault(name, []).append(path)
        return found


@dataclass(frozen=True, kw_only=True)
class StudyServeConfig:
    """One call of ``wsigen study serve``.

    Args:
        study: folder of a study, made by ``wsigen study make``.
        host: address to listen on; 0.0.0.0 lets readers at other machines in, without encryption.
        port: to listen on; 0 for any that is free.
        no_browser: only print the address, do not open it.
    """

    study: Path
    host: str = "127.0.0.1"
    port: int = PORT
    no_browser: bool = False

    def __post_init__(self) -> None:
        check(0 <= self.port < 2**16, "--port", self.port, "between 0 and 65535")
        check(bool(self.host), "--host", repr(self.host), "an address such as 127.0.0.1")


@dataclass(frozen=True, kw_only=True)
class StudyReportConfig:
    """One call of ``wsigen study report``.

    Args:
        study: folder of a study with answers; it may still be served.
        out: folder for index.html, answers.csv, readers.csv and items.csv; by default "report" in that of the
            study.
        seed: of the bootstrap.
    """

    study: Path
    out: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check(0 <= self.seed < 2**63, "--seed", self.seed, "between 0 and 2**63")
