"""Optimizer that flips binary weights instead of moving latent ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn
from torch._compile import _disable_dynamo

from ...binary import binary_layers
from ...binary.computed import MAKE_PARAMETER, sources_of
from ...checks import Rule, checked, either, not_negative, number
from ...errors import shorten

#: Rule of learning rates; torch takes tensors, too.
_LR = either(
    not_negative,
    Rule('a tensor of one value', lambda x: isinstance(x, torch.Tensor) and x.numel() == 1),
)


def _adamw_step(optimizer: torch.optim.AdamW) -> None:
    """Make AdamW's step without the hooks of steps, which run around the whole step of Bop."""
    step: Any = torch.optim.AdamW.step
    # torch wraps the method of a class when the first optimizer of this very class is made
    while getattr(step, 'hooked', False):
        step = step.__wrapped__
    step(optimizer)


@OPTIMIZERS.register_module()
class Bop(torch.optim.AdamW):
    """Bop for binary weights, and AdamW for all other parameters.

    A weight changes its sign if its gradients have pushed in one direction for long enough.
    With ``g`` the gradient of a binary weight ``w``::

        m <- (1 - gamma) m + gamma g
        w <- -w  if |m| > threshold and m w > 0

    Magnitudes of binary weights never change. A constructor finds the binary weights. The
    gradient must be that of the effective weight, so use ``'plain_sign'`` without a window::

        optim_wrapper = dict(
            optimizer=dict(type='Bop', lr=1e-3, gamma=1e-4, threshold=1e-8),
            constructor='BopOptimWrapperConstructor',
        )
        conv_cfg = dict(
            type='ESConv2d', weight_binarizer=dict(type='plain_sign', clip=None))

    Args:
        params: Parameter groups. A group with ``flips=True`` holds binary weights.
        lr: Learning rate of AdamW, a number or a tensor of one value. Default 1e-3.
        gamma: Rate at which ``m`` adapts, from 0 to 1. Default 1e-4.
        threshold: Bound that ``|m|`` must exceed, >= 0. Default 1e-8.
        **adamw: Further arguments of ``torch.optim.AdamW``.

    Raises:
        ValueError: If ``lr``, ``gamma`` or ``threshold`` is out of range, or no group has
            ``flips=True``.

    Source: Helwegen et al., "Latent Weights Do Not Exist: Rethinking Binarized Neural Network
    Optimization" (2019).
    """

    @checked(lr=_LR, gamma=number(0, 1), threshold=not_negative)
    def __init__(
        self,
        params: Iterable[Any],
        lr: float | torch.Tensor = 1e-3,
        gamma: float = 1e-4,
        threshold: float = 1e-8,
        **adamw: Any,
    ) -> None:
        super().__init__(params, lr=lr, **adamw)
        # the scaler of mixed precision would leave its scale to a fused AdamW
        self._step_supports_amp_scaling = False
        own = dict(gamma=gamma, threshold=threshold, flips=False)
        self.defaults.update(own)
        for group in self.param_groups:
            for name, value in own.items():
                group.setdefault(name, value)
        if not any(group['flips'] for group in self.param_groups):
            raise ValueError(
                'Bop: no parameter group has flips=True: use '
                "constructor='BopOptimWrapperConstructor', or another optimizer"
            )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of another Bop with the same groups.

        Args:
            state_dict: Result of ``state_dict()``.

        Raises:
            ValueError: If it is that of another optimizer, or its groups flip others.
        """
        flips = [group['flips'] for group in self.param_groups]
        found = [group.get('flips') for group in state_dict['param_groups']]
        if found != flips:
            raise ValueError(
                f'Bop: the loaded state has groups with flips={shorten(repr(found), 60)}, not '
                f'{shorten(repr(flips), 60)}, as of another optimizer: load the weights only '
                '(load_from instead of resume)'
            )
        super().load_state_dict(state_dict)

    @_disable_dynamo  # torch.compile cannot trace that groups are hidden
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Flip binary weights, and let AdamW move the other parameters.

        Args:
            closure: Function that computes the loss again. Default None.
        """
        loss = None
        if closure is not None:
            # before groups are hidden, because it sets the gradients of all groups to zero
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group['flips']]
        try:
            _adamw_step(self)
        finally:
            self.param_groups = groups
        for group in groups:
            if group['flips']:
                self._flip(group)
        return loss

    @torch.no_grad()
    def _flip(self, group: dict[str, Any]) -> None:
        for weight in group['params']:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if 'momentum' not in state:
                # AdamW expects a step in every state that is loaded
                state['step'] = torch.zeros((), dtype=torch.float32)
                state['momentum'] = torch.zeros_like(weight)
            momentum = state['momentum']
            gradient = -weight.grad if group['maximize'] else weight.grad
            momentum.lerp_(gradient, group['gamma'])
            flips = (momentum.abs() > group['threshold']) & (momentum * weight > 0)
            weight.copy_(torch.where(flips, -weight, weight))


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BopOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Constructor of :class:`Bop` with two groups: binary weights, and all other parameters.

    Frozen parameters are in no group.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper, with ``optimizer``.
        paramwise_cfg: Must be None.

    Raises:
        ValueError: If ``paramwise_cfg`` is given; when called, if the model has no binary
            weight to train, or one that is computed, such as by a weight norm.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        if not (paramwise_cfg is None or (isinstance(paramwise_cfg, dict) and not paramwise_cfg)):
            given = repr(paramwise_cfg)[:80]
            raise ValueError(f'{type(self).__name__}: paramwise_cfg={given} must be None')
        super().__init__(optim_wrapper_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Build the optimizer and its wrapper for ``model``."""
        layers = {
            name: layer
            for name, layer in binary_layers(model).items()
            if not layer.has_real_weights
        }
        for name, layer in layers.items():
            if any(source.requires_grad for source in sources_of(layer, 'weight')):
                raise ValueError(
                    f'{type(self).__name__}: the weight of layer {name!r} is computed from other '
                    f'parameters, and Bop cannot flip it: {MAKE_PARAMETER}'
                )
        latent = {id(layer.weight) for layer in layers.values()}
        trained = [p for p in model.parameters() if p.requires_grad]
        binary = [p for p in trained if id(p) in latent]
        if not binary:
            raise ValueError('BopOptimWrapperConstructor: the model has no binary weight to train')
        others = [p for p in trained if id(p) not in latent]
        groups = [dict(params=binary, flips=True), dict(params=others)]
        optimizer = OPTIMIZERS.build(dict(self.optimizer_cfg, params=groups))
        wrapper = {'type': 'OptimWrapper', **self.optim_wrapper_cfg}
        return OPTIM_WRAPPERS.build(wrapper, default_args=dict(optimizer=optimizer))
