"""The lines of docs/synthetic-slide.md run, with a smaller slide and model."""

from __future__ import annotations

import re
from functools import partial

import wsigen
from tests.commands import ROOT
from tests.pipeline.models import small_net
from tests.sampling.upscalers import small_upscaler
from wsigen.nn.model import save_model

PAGE = (ROOT / "docs" / "synthetic-slide.md").read_text(encoding="utf-8")


def test_the_lines_run(tmp_path, monkeypatch):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    save_model(tmp_path / "small", denoiser=small_net(), upscaler=small_upscaler())
    smaller = partial(wsigen.SyntheticSlide, model=tmp_path / "small", device="cpu")
    monkeypatch.setitem(vars(wsigen), "SyntheticSlide", smaller)
    block = block.replace("size=65536, stages=7", "size=512, stages=3").replace(
        "(20000, 31000)", "(300, 200)"
    )
    found: dict = {}
    exec(block, found)
    assert found["slide"].level_downsamples == (1, 2, 4, 8)
