"""What the configuration of a denoiser's training refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsigen.config import DataConfig, PatchGroup
from wsigen.errors import InvalidValueError


@pytest.mark.parametrize("mpp_range", [(2.0, 1.0), (0.0, 1.0), (1.0, 1.0)])
def test_ranges_rise(mpp_range):
    for flag, make in (
        ("data.patches.mpp_range", lambda: PatchGroup(mpp_range=mpp_range)),
        ("data.mpp_range", lambda: DataConfig(slides=Path("HE"), mpp_range=mpp_range)),
    ):
        with pytest.raises(InvalidValueError, match=rf"{flag} must be two numbers with 0 < smallest"):
            make()


def test_a_patch_size_keeps_within_the_run():
    patches = [PatchGroup(mpp_range=(8.0, 128.0))]
    assert DataConfig(slides=Path("HE"), patches=patches, mpp_range=(0.5, 128.0)).patches == patches
    with pytest.raises(
        InvalidValueError,
        match=r"data.patches.mpp_range must be within data.mpp_range \(0.5, 64.0\), got \(8.0, 128.0\)",
    ):
        DataConfig(slides=Path("HE"), patches=patches, mpp_range=(0.5, 64.0))
