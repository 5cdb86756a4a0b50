"""Quantizer of diffusers that makes layers binary while a model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from diffusers.quantizers.base import DiffusersQuantizer
from torch import Tensor, nn

from ..binary import BinarizeReport, BinaryLayer, binary_layers
from ..binary.precision import keep_signs
from ..checkpoints.bits import BITS, SCALE, parts_of, unpack_bits
from ..errors import MmesbnnError, shorten
from ..optional import require
from .folders import check_complete
from .quantization_config import BinaryConfig

#: Name of the parameter with the scales of a layer.
_LEARNED = 'weight_binarizer.scale'


class QuantizerError(MmesbnnError):
    """Error about a model that cannot be saved or loaded; the message says why."""


class BinaryQuantizer(DiffusersQuantizer):
    """Quantizer of :class:`~mmesbnn.diffusion.quantization_config.BinaryConfig`.

    A float model is loaded first, and then layers become binary. A model that was saved as
    binary gets its binary layers first, and then their weights. A packed weight ``NAME`` is
    stored as ``NAME.bits`` and ``NAME.scale``, see :mod:`mmesbnn.deploy.packed.file`.

    Args:
        quantization_config: Options.
        **kwargs: ``pre_quantized``: whether the weights are those of a binary model.
            Default True.

    Attributes:
        report: Replaced and kept layers; None before the model is loaded.
    """

    quantization_config: BinaryConfig
    requires_calibration = False
    #: Modules that a float model keeps in float32 stay there.
    use_keep_in_fp32_modules = True

    def __init__(self, quantization_config: BinaryConfig, **kwargs: Any) -> None:
        # a copy, because one config may serve several models
        super().__init__(quantization_config.copy(), **kwargs)
        # from_single_file always says that weights are quantized
        self.pre_quantized = self.pre_quantized and self.quantization_config.layers is not None
        self.report: BinarizeReport | None = None
        self._layers: dict[str, BinaryLayer] = {}
        self._dtype: torch.dtype | None = None

    @property
    def _from_bits(self) -> bool:
        return self.pre_quantized and self.quantization_config.packed

    # ------------------------------------------------------------------ loading

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Check the arguments of ``from_pretrained``.

        Raises:
            ImportError: If accelerate is not installed.
            ValueError: If a ``device_map`` distributes the model.
        """
        require('accelerate', 'sr', 'Loading with quantization_config')
        devices = kwargs.get('device_map')
        if isinstance(devices, Mapping):
            places = {str(device) for device in devices.values()}
            if len(places) > 1 or 'disk' in places:
                raise ValueError(
                    f'device_map={shorten(str(dict(devices)), 200)} must name one device '
                    'for a binary model'
                )
        elif isinstance(devices, str):
            raise ValueError(f'device_map={devices!r} must name one device for a binary model')

    def update_torch_dtype(self, torch_dtype: torch.dtype | None) -> Any:
        """Return ``torch_dtype``, the dtype of the loaded weights."""
        self._dtype = torch_dtype
        return torch_dtype

    def maybe_update_loaded_keys(self, loaded_keys: list[str], checkpoint_files: Any) -> list[str]:
        """Return the names of the parameters that the entries of files become."""
        if not self._from_bits:
            return loaded_keys
        return [_parameter(key) for key in loaded_keys]

    def maybe_update_state_dict(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters of the entries of one file.

        Raises:
            QuantizerError: If an entry does not fit the model.
        """
        if not self.pre_quantized:
            return state_dict
        read = self._read_packed if self._from_bits else self._read_latent
        return dict(read(key, value) for key, value in state_dict.items())

    def _read_latent(self, key: str, value: Tensor) -> tuple[str, Tensor]:
        """Convert a latent weight to a narrower dtype without the loss of its signs."""
        name = key.removesuffix('.weight')
        if self._dtype is None or name not in self._layers or not value.is_floating_point():
            return key, value
        rounded = value.to(self._dtype)
        if rounded is not value:
            keep_signs(rounded, value)
        return key, rounded

    def _read_packed(self, key: str, value: Tensor) -> tuple[str, Tensor]:
        for suffix, read in ((BITS, _signs), (SCALE, _scales)):
            if key.endswith(f'.{suffix}'):
                name = key.removesuffix(f'.{suffix}')
                if name not in self._layers:
                    raise QuantizerError(
                        f'the weights hold {shorten(key, 100)}, but quantization_config names '
                        'no such layer'
                    )
                try:
                    return _parameter(key), read(value, self._layers[name].weight)
                except ValueError as error:
                    raise QuantizerError(f'{shorten(key, 100)}: {error}') from error
        owner = key.removesuffix('.weight').removesuffix(f'.{_LEARNED}')
        if owner != key and owner in self._layers:
            raise QuantizerError(
                f'the weights hold {shorten(key, 100)} as numbers, but quantization_config '
                'says packed=true'
            )
        return key, value

    def update_missing_keys(self, model: Any, missing_keys: list[str], prefix: str) -> list[str]:
        """Return the parameters that no file holds; scales of 1 are not stored.

        Raises:
            QuantizerError: If a parameter of a binary model is missing.
        """
        if not self.pre_quantized:
            return missing_keys
        ones = {f'{name}.{_LEARNED}' for name in self._layers} if self._from_bits else set()
        missing = sorted(set(missing_keys) - ones)
        if missing:
            raise QuantizerError(
                f'the weights lack {shorten(missing[0], 100)} of {type(model).__name__}'
            )
        return []

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> None:
        if not self.pre_quantized:
            return
        from .layer_choice import replace_layers  # imports models, which import quantizers

        config, layers = self.quantization_config, self.quantization_config.layers or []
        if config.packed:
            config.weight_binarizer = 'learned_scale'
        with torch.device('meta'):
            self.report = replace_layers(model, layers, (), config.options)
        self._layers = binary_layers(model, every_name=True)
        entries = {layer.name: layer for layer in self.report}
        for name in layers:
            entry = entries.get(name)
            if entry is None or not entry.replaced:
                why = entry.why if entry else 'another name of a layer'
                raise QuantizerError(
                    f'quantization_config: {shorten(name, 100)} cannot become binary: {why}'
                )

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        if self._from_bits:
            for layer in set(self._layers.values()):
                _start(layer)
        check_complete(model)
        if not self.pre_quantized:
            self._binarize(model)
        # from_config, for copies and moving averages of the model, then builds binary ones
        import_module('.binarized', __package__)
        model.register_to_config(quantization_config=self.quantization_config)
        return model

    def _binarize(self, model: Any) -> None:
        """Replace layers of a float model."""
        from .layer_choice import eligible_layers, replace_layers

        config = self.quantization_config
        layers = config.layers
        if layers is None:
            layers = eligible_layers(model, config.attention, config.shortcuts)
        keep = config.keep if config.layers is None else ()
        self.report = replace_layers(model, layers, keep, config.options)
        self._layers = binary_layers(model, every_name=True)
        config.layers = [layer.name for layer in self.report.replaced]

    # ------------------------------------------------------------------- saving

    @property
    def is_serializable(self) -> bool:
        """True; diffusers asks before it writes the first file.

        Raises:
            QuantizerError: If ``packed`` is set, but a weight is not binary.
        """
        if self.quantization_config.packed:
            for name, layer in self._layers.items():
                reason = layer.why_not_binary()
                if reason:
                    raise QuantizerError(
                        f'cannot pack {name}: {reason}; to store latent weights, set '
                        'model.config.quantization_config.packed = False'
                    )
        return True

    @torch.no_grad()
    def get_state_dict_and_metadata(
        self, state_dict: dict[str, Any], safe_serialization: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the entries to store, and no metadata."""
        if not self.quantization_config.packed:
            return state_dict, {}
        stored: dict[str, Any] = {}
        binarizers = tuple(f'{name}.weight_binarizer.' for name in self._layers)
        for key, value in state_dict.items():
            name = key.removesuffix('.weight')
            if name != key and name in self._layers:
                parts = parts_of(self._layers[name].effective_weight())
                stored.update((f'{name}.{suffix}', part) for suffix, part in parts.items())
            elif not key.startswith(binarizers):
                stored[key] = value
        return stored, {}

    @property
    def is_trainable(self) -> bool:
        """True: all parameters can be trained."""
        return True

    @property
    def is_compileable(self) -> bool:
        """True: ``torch.compile`` takes the binary layers."""
        return True


def _parameter(key: str) -> str:
    """Return the name of the parameter that an entry of a file becomes."""
    if key.endswith(f'.{BITS}'):
        return key.removesuffix('.bits')
    if key.endswith(f'.{SCALE}'):
        return key.removesuffix(SCALE) + _LEARNED
    return key


def _signs(bits: Tensor, weight: Tensor) -> Tensor:
    return unpack_bits(bits, weight.shape)


def _scales(scale: Tensor, weight: Tensor) -> Tensor:
    if not scale.is_floating_point() or scale.shape != weight.shape[:1]:
        raise ValueError(
            f'{len(weight)} floating-point numbers are expected, but it has '
            f'{scale.dtype} of shape {tuple(scale.shape)}'
        )
    if not torch.isfinite(scale).all() or (scale < 0).any():
        raise ValueError('scales must be finite and not negative')
    return scale


@torch.no_grad()
def _start(layer: BinaryLayer) -> None:
    """Give a layer from a packed file scales, if all are 1, and latent weights.

    Latent weights start at the size of the scale. Beyond 1 they would get no gradient.
    """
    binarizer: Any = layer.weight_binarizer
    if binarizer.scale.is_meta and not layer.weight.is_meta:
        ones = torch.ones_like(binarizer.scale, device=layer.weight.device)
        binarizer.scale = nn.Parameter(ones, requires_grad=binarizer.scale.requires_grad)
    if not layer.weight.is_meta:
        least = torch.finfo(layer.weight.dtype).tiny  # the sign of 0 would be lost
        scale = binarizer.scale.clamp(least, 1)
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.dim() - 1)))


def apply_config(model: Any, config: BinaryConfig) -> BinarizeReport:
    """Make a built float model binary, as ``from_pretrained`` does with this config.

    Args:
        model: Model of diffusers, changed in place.
        config: Options.

    Raises:
        ValueError: As :func:`~mmesbnn.diffusion.binarized.binarize_unet`.
    """
    quantizer = BinaryQuantizer(config, pre_quantized=False)
    quantizer.postprocess_model(model)
    model.is_quantized = True
    model.quantization_method = config.quant_method
    model.hf_quantizer = quantizer
    assert quantizer.report is not None
    return quantizer.report
