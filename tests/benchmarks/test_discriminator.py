from benchmarks.discriminator import AT_ONCE, measure
from wsigen.config import CriticConfig, DataConfig, PatchGroup, UpscalerConfig, UpscalerTrainConfig
from wsigen.training.upscaler.train import train_upscaler


def test_a_discriminator_alone_learns_to_rank_real_above_drawn(slides, tmp_path):
    config = UpscalerTrainConfig(
        data=DataConfig(
            slides=slides, patches=[PatchGroup(size=32, batch=2)], mpp_range=(0.5, 4.0), workers=0
        ),
        model=UpscalerConfig(channels=(8, 16), blocks=(1, 1), head_channels=(8, 8)),
        discriminator=CriticConfig(channels=(8, 16)),
        kimg=0.004,
        run_dir=tmp_path / "run",
        val_images=2,
    )
    train_upscaler(config)
    rows = measure(tmp_path / "run", (0.5, 1.0), size=32, batch=2, updates=2 * AT_ONCE, lr=2e-3)
    assert len(rows) == 2
    # The bilinear guide of an untrained upscaler has no fine detail: easily told.
    assert rows[1].ranked[0] > 0.9
    assert rows[1].hinge[0] < rows[0].hinge[0]
