"""Parameters that torch computes from others, by a parametrization, a norm or pruning."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

#: What a message advises where a parameter is computed.
MAKE_PARAMETER = (
    'make it a parameter first, with remove_parametrizations, remove_weight_norm or '
    'prune.remove of torch.nn.utils'
)


def sources_of(module: nn.Module, name: str) -> list[nn.Parameter]:
    """Return the parameters from which torch computes a parameter of ``module``.

    It does so for a parametrization, a weight norm, a spectral norm and pruning.

    Args:
        module: Any module.
        name: Name of the computed parameter, such as ``'weight'``.

    Returns:
        These parameters. The list is empty if the parameter is not computed.
    """
    if module._parameters.get(name) is not None:
        return []
    if is_parametrized(module, name):
        return list(module.parametrizations[name].parameters())  # type: ignore[union-attr,index]
    found = (module._parameters.get(f'{name}_{end}') for end in ('orig', 'g', 'v'))
    return [parameter for parameter in found if parameter is not None]
