"""A light base class of networks, with the folders of diffusers' ``ModelMixin``: config.json and safetensors.

Importing diffusers takes seconds. Stainers need nothing of it but the file format, so they build on this
class, and whoever wants to can load their folders with diffusers all the same.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import nn

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"

Own = TypeVar("Own", bound="Network")


class Network(nn.Module):
    """A network that records the arguments it is built with in ``config``, and is saved with them."""

    _config: dict[str, Any]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in cls.__dict__:
            cls.__init__ = _recorded(cls.__init__)

    @property
    def config(self) -> Mapping[str, Any]:
        """The arguments that the network was built with."""
        return self._config

    def register_to_config(self, **values: Any) -> None:
        """Change what ``config`` records; changes nothing else."""
        self._config = {**self._config, **values}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and the weights.

        Args:
            folder: made if it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        named = {"_class_name": type(self).__name__, "_diffusers_version": version("diffusers")}
        text = json.dumps({**self._config, **named}, indent=2, sort_keys=True)
        (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls: type[Own], folder: str | Path) -> Own:
        """Build a network from a folder, in evaluation mode.

        Args:
            folder: with config.json and weights; unknown settings are ignored, missing ones have defaults.

        Raises:
            RuntimeError: the weights do not fit the config.
            OSError: a file is missing.
            ValueError: a setting cannot be used, or config.json is damaged.
        """
        settings = json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8"))
        known = inspect.signature(cls.__init__).parameters
        net = cls(**{name: value for name, value in settings.items() if name in known})
        net.load_state_dict(load_file(Path(folder) / WEIGHTS))
        return net.eval()


def _recorded(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``__init__`` so that its arguments are recorded before it runs."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recording(self: Network, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        values = dict(bound.arguments)
        values.pop(next(iter(signature.parameters)))
        object.__setattr__(self, "_config", values)  # nn.Module's own needs its __init__ to have run
        init(self, *args, **kwargs)

    return recording
