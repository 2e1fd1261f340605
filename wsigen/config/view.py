"""Options of ``wsigen view``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wsigen.config.check import check, check_mpp
from wsigen.runtime import parse_bytes


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """One call of ``wsigen view``.

    Args:
        slides: slides and folders of slides; an H&E slide and its IHC slides are shown as one case.
        overlay: GeoJSON of annotations, as QuPath exports it, for the slide of the same name; NAME.geojson
            beside a slide is found without it. The flag may be repeated.
        table: CSV with columns slide, and any of mpp, series, z, for what the files do not say.
        mpp: µm/px of slides whose files do not state it; of the slide of --seed, by default 0.5.
        seed: also show the slide of this seed, which is computed where it is looked at, not written.
        size: side of the slide of --seed in pixels.
        stages: number of its upscalings.
        stain: also show its translation by this stainer: "SYN" (bundled), a snapshot folder or a hub id;
            several separated by commas.
        model: of --seed: "default" (bundled), a model folder, or a hub id; with an upscaler.
        upscaler: snapshot folder or hub id of an upscaler to use instead of the model's own.
        device: of --seed: "auto", "cpu", "cuda", "cuda:1", "mps".
        dtype: precision of the networks of --seed.
        host: address to listen on; 0.0.0.0 lets everyone who reaches this machine see the slides.
        port: to listen on; 0 for any that is free.
        no_browser: only print the address, do not open it.
        cache: memory for encoded tiles, such as 256MiB.
    """

    slides: list[str] = field(default_factory=list)
    overlay: list[str] = field(default_factory=list)
    table: Path | None = None
    mpp: float | None = None
    seed: int | None = None
    size: int = 65536
    stages: int = 7
    stain: str | None = None
    model: str = "default"
    upscaler: str | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    host: str = "127.0.0.1"
    port: int = 8765
    no_browser: bool = False
    cache: str = "256MiB"

    def __post_init__(self) -> None:
        some = bool(self.slides) or self.seed is not None
        check(some, "SLIDES", "none", "slides or folders of slides, or use --seed for one that is computed")
        for name, default in (("stain", None), ("upscaler", None)):
            value = getattr(self, name)
            check(self.seed is not None or value == default, f"--{name}", value, "given with --seed")
        check(self.seed is None or 0 <= self.seed < 2**63, "--seed", self.seed, "between 0 and 2**63")
        check_mpp(self.mpp, "--mpp")
        check(0 <= self.port < 2**16, "--port", self.port, "between 0 and 65535")
        check(bool(self.host), "--host", repr(self.host), "an address such as 127.0.0.1")
        parse_bytes(self.cache, "--cache")
