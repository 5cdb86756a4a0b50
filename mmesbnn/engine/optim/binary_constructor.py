"""The two weight decays that binary networks are trained with."""

from __future__ import annotations

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..reach import binary_layers


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BinaryOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Optimizer with two parameter groups, kernels and the rest.

    The first group has the weight decay ``kernel_decay``: all four-dimensional
    parameters, that is convolution kernels, binary or not, and the shifts and mixes of
    shape ``(1, C, 1, 1)``; and all latent weights of binary layers, linear ones too,
    because only their sign will count. The second has the optimizer's own
    ``weight_decay``: norms, PReLUs, classifier, biases. Frozen parameters are in
    neither, shared ones in one group once::

        optim_wrapper = dict(
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=1e-3),
            constructor='BinaryOptimWrapperConstructor',
            paramwise_cfg=dict(kernel_decay=1e-8),
        )

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with ``optimizer``.
        paramwise_cfg: ``dict(kernel_decay=...)``, or None for 1e-8.

    Raises:
        ValueError: If ``paramwise_cfg`` has other keys or a negative value; when
            called, if the model has no trainable parameter.

    Source: the training code of Guo et al., "BNext" (2022).
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        unknown = set(self.paramwise_cfg) - {'kernel_decay'}
        if unknown:
            raise ValueError(
                f'paramwise_cfg has the unknown keys {sorted(unknown)}: '
                f"{type(self).__name__} knows 'kernel_decay' only"
            )
        # never empty: the base class would then pass all parameters as one group
        self.paramwise_cfg = {'kernel_decay': 1e-8, **self.paramwise_cfg}
        decay = self.paramwise_cfg['kernel_decay']
        if not decay >= 0:
            raise ValueError(f'kernel_decay={decay!r} must not be negative')

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Append the two groups of ``module``'s parameters to ``params``."""
        latent = {id(layer.weight) for layer in binary_layers(module).values()}
        # parameters() gives shared ones once
        trained = [p for p in module.parameters() if p.requires_grad]
        if not trained:
            raise ValueError('the model has no parameter to train: all are frozen')
        kernels, others = [], []
        for parameter in trained:
            is_kernel = parameter.dim() == 4 or id(parameter) in latent
            (kernels if is_kernel else others).append(parameter)
        decay = self.paramwise_cfg['kernel_decay']
        params += [{'params': kernels, 'weight_decay': decay}, {'params': others}]
        print_log(
            f'{len(kernels)} kernels have weight_decay={decay}, {len(others)} other '
            f'parameters weight_decay={self.base_wd}',
            logger='current',
        )
