"""Ways in which torch computes a weight from other parameters."""

import pytest
from torch.nn import utils
from torch.nn.utils import parametrizations, prune

WAYS = [
    pytest.param(parametrizations.weight_norm, id='weight_norm'),
    pytest.param(parametrizations.orthogonal, id='orthogonal'),
    pytest.param(
        utils.weight_norm,
        id='old_weight_norm',
        marks=pytest.mark.filterwarnings('ignore:.*weight_norm.*:FutureWarning'),
    ),
    pytest.param(utils.spectral_norm, id='old_spectral_norm'),
    pytest.param(lambda layer: prune.random_unstructured(layer, 'weight', 0.5), id='pruning'),
]
