"""Optimizer constructor with the two weight decays of binary networks."""

from __future__ import annotations

from typing import Any

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ...binary import binary_layers
from ...binary.computed import sources_of
from ...checks import check, number


class _Multiple(float):
    """Factor of a parameter's own weight decay."""

    def __mul__(self, other: Any) -> _Multiple:
        return _Multiple(float(self) * other)

    def __str__(self) -> str:
        return f"{float(self)} x the parameter's own"


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BinaryOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Constructor of an optimizer with two parameter groups, kernels and the rest.

    The first group has the weight decay ``kernel_decay``. It holds all four-dimensional
    parameters: convolution kernels, binary or not, and shifts and mixes of shape
    ``(1, C, 1, 1)``. It also holds the latent weights of binary linear layers, because only
    their signs count in the end, and the parameters from which a weight norm or another
    parametrization computes such a weight. The second group has the optimizer's own
    ``weight_decay``: norms, PReLUs, classifier, biases. Frozen parameters are in no group.
    Shared parameters are in a group once::

        optim_wrapper = dict(
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-3),
            constructor='BinaryOptimWrapperConstructor',
            paramwise_cfg=dict(kernel_decay=1e-8),
        )

    All other keys of mmengine's ``DefaultOptimWrapperConstructor`` can be added. There is
    then one group per different setting. A factor of the decay, such as ``decay_mult``,
    multiplies the decay that the parameter has here. A ``weight_decay`` in ``custom_keys``
    replaces it::

        paramwise_cfg=dict(
            kernel_decay=1e-8, custom_keys={'backbone': dict(lr_mult=0.1)})

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with ``optimizer``.
        paramwise_cfg: ``kernel_decay``, by default 1e-8, and mmengine's keys; or None.

    Raises:
        ValueError: If ``paramwise_cfg`` has an unknown key or a negative
            ``kernel_decay``; when called, if the model has no trainable parameter.

    Source: the training code of Guo et al., "BNext" (2022).
    """

    paramwise_cfg: dict[str, Any]
    base_wd: Any

    #: Keys of mmengine's constructor.
    OTHER_KEYS = frozenset(
        (
            'custom_keys',
            'bias_lr_mult',
            'bias_decay_mult',
            'norm_decay_mult',
            'dwconv_decay_mult',
            'flat_decay_mult',
            'dcn_offset_lr_mult',
            'bypass_duplicate',
        )
    )

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        unknown = set(self.paramwise_cfg) - {'kernel_decay'} - self.OTHER_KEYS
        if unknown:
            raise ValueError(
                f'paramwise_cfg has the unknown keys {sorted(unknown)}: '
                f"{type(self).__name__} knows 'kernel_decay' and "
                f'{sorted(self.OTHER_KEYS)}'
            )
        # never empty, because the base class would then pass all parameters as one group
        self.paramwise_cfg = {'kernel_decay': 1e-8, **self.paramwise_cfg}
        check('kernel_decay', self.paramwise_cfg['kernel_decay'], number(0))

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **kwargs: Any) -> None:
        """Append the groups of ``module``'s parameters to ``params``."""
        if kwargs:  # the base class calls this for a child
            super().add_params(params, module, **kwargs)
            return
        latent = {
            id(parameter)
            for layer in binary_layers(module).values()
            for parameter in (sources_of(layer, 'weight') or (layer.weight,))
        }
        # parameters() yields shared parameters once
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            raise ValueError('the model has no parameter to train: all are frozen')
        kernels = {id(p) for p in trained if p.dim() == 4 or id(p) in latent}
        decay = self.paramwise_cfg['kernel_decay']
        if set(self.paramwise_cfg) & self.OTHER_KEYS:
            params += self._settings(module, kernels)
        else:
            parts: tuple[list[Any], list[Any]] = ([], [])
            for parameter in trained:
                parts[id(parameter) not in kernels].append(parameter)
            params += [{'params': parts[0], 'weight_decay': decay}, {'params': parts[1]}]
        print_log(
            f'{len(kernels)} kernels have weight_decay={decay}, '
            f'{len(trained) - len(kernels)} other parameters '
            f'weight_decay={self.base_wd}',
            logger='current',
        )

    def _settings(self, module: nn.Module, kernels: set[int]) -> list[dict[str, Any]]:
        """Return one group for every setting of mmengine's keys and of the two decays."""
        own_decay, self.base_wd = self.base_wd, _Multiple(1)
        found: list[dict[str, Any]] = []
        try:
            super().add_params(found, module)
        finally:
            self.base_wd = own_decay
        groups: dict[str, dict[str, Any]] = {}
        seen: set[int] = set()
        for group in found:
            (parameter,) = group.pop('params')
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            is_kernel = id(parameter) in kernels
            own = self.paramwise_cfg['kernel_decay'] if is_kernel else own_decay
            factor = group.get('weight_decay', _Multiple(1))
            if isinstance(factor, _Multiple):
                group.pop('weight_decay', None)
                if own is not None:
                    group['weight_decay'] = float(factor) * own
            same = groups.setdefault(repr(sorted(group.items())), {'params': []})
            same.update(group)
            same['params'].append(parameter)
        return list(groups.values())
