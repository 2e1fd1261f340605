from pathlib import Path

import pytest

from tests.synthetic import he_image, write_tiff


@pytest.fixture(scope="session")
def slides(tmp_path_factory) -> Path:
    """Three small slides."""
    folder = tmp_path_factory.mktemp("slides")
    for i in range(3):
        write_tiff(folder / f"slide{i}.tif", he_image(512, seed=i), 0.5, levels=2)
    return folder
