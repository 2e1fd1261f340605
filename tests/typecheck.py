"""Shape and type checks at every call of the numerical packages, by jaxtyping and beartype."""

from __future__ import annotations

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# The sampler's loops over patches are left out: checked, their tests take three times as long.
PACKAGES = (
    "wsigen.diffusion",
    "wsigen.sampling.lazy",
    "wsigen.sampling.upscale",
    "wsigen.stain.losses",
    "wsigen.stain.networks",
    "wsigen.stain.engine",
    "wsigen.stain.normalise",
    "wsigen.stain.style",
    *(f"wsigen.nn.{module}" for module in ("denoiser", "discriminator", "ema", "upscaler")),
)

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for static type checkers


def check_shapes() -> None:
    """Check `PACKAGES`, which must not have been imported yet. Child processes do not inherit this."""
    install_import_hook(PACKAGES, "tests.typecheck.check")
