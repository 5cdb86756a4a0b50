"""Layers are replaced again by their names, whatever these names look like."""

from torch import nn

from mmesbnn.binary import ESConv2d, ESLinear
from mmesbnn.binary.options import BinaryOptions
from mmesbnn.binary.replaced import binarize_layers, replace_again, replaced_in


class Around(nn.Conv2d):
    """A float layer that holds another one, as adapters do."""

    def __init__(self):
        super().__init__(4, 4, 1)
        self.inner = nn.Linear(4, 4)


def names_of(model):
    return [name for name, m in model.named_modules() if isinstance(m, (ESConv2d, ESLinear))]


def test_the_name_of_another_layer_is_no_pattern():
    model = nn.ModuleDict({'a*': nn.Linear(4, 4), 'ab': nn.Linear(4, 4), 'c?': nn.Conv2d(4, 4, 1)})
    report = binarize_layers(model, ['ab'], BinaryOptions(tau=2))
    assert names_of(model) == ['ab']
    assert {layer.name: layer.replaced for layer in report} == {
        'a*': False,
        'ab': True,
        'c?': False,
    }


def test_a_layer_inside_of_another_one_is_replaced():
    model = nn.Sequential(Around(), nn.Conv2d(4, 4, 1))
    binarize_layers(model, ['0.inner'], BinaryOptions())
    assert names_of(model) == ['0.inner']


def test_other_networks_are_changed_in_the_same_way():
    first, second = (nn.ModuleDict({'a*': nn.Linear(4, 4), 'ab': nn.Linear(4, 4)}) for _ in '12')
    binarize_layers(first, ['ab'], BinaryOptions(tau=4))
    for replaced in replaced_in(first):
        replace_again(second, replaced)
    assert names_of(second) == ['ab'] and second['ab'].expansion.tau == 4
