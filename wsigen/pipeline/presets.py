"""The presets that come with the package, and those of the user."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml

from wsigen.errors import InvalidValueError
from wsigen.sampling.preset import Preset, preset_from_dict

_FOLDER = resources.files("wsigen") / "config" / "presets"


def preset_names() -> list[str]:
    """Names of the presets in the package."""
    return sorted(Path(f.name).stem for f in _FOLDER.iterdir() if f.name.endswith(".yaml"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(
            f"--preset {path} cannot be read ({error}); give a YAML file in UTF-8"
        ) from error


def load_preset(name_or_path: str) -> Preset:
    """A preset by name, or from a YAML file.

    Raises:
        InvalidValueError: if there is none, or it holds unknown keys or values.
    """
    if name_or_path in preset_names():
        text = (_FOLDER / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    elif Path(name_or_path).is_file():
        text = _read(Path(name_or_path))
    else:
        known = ", ".join(preset_names())
        raise InvalidValueError(f"--preset must be one of {known}, or a YAML file, got {name_or_path!r}")
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InvalidValueError(
            f"--preset {name_or_path} is not valid YAML: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(values, dict):
        raise InvalidValueError(
            f"--preset {name_or_path} must hold the keys base, guided and upscaler, got {values!r}"
        )
    return preset_from_dict(values)
