"""The min-max quantized head."""

import pytest

pytest.importorskip('mmpretrain')

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.models.heads.minmax_linear import MinMaxLinearClsHead
from mmesbnn.models.layers.minmax import MinMaxLinear

CFG = dict(type='MinMaxLinearClsHead', num_classes=5, in_channels=12)


def build(**kwargs):
    # mmpretrain's registry, because of the head's own loss
    head = MMPRETRAIN_MODELS.build({**CFG, **kwargs})
    torch.nn.init.normal_(head.fc.weight)
    torch.nn.init.normal_(head.fc.bias)
    return head


@pytest.mark.parametrize('registry', [MODELS, MMPRETRAIN_MODELS])
def test_is_found_in_both_registries(registry):
    head = registry.build(CFG)
    assert isinstance(head, MinMaxLinearClsHead)
    assert isinstance(head, LinearClsHead)


@pytest.mark.parametrize(('options', 'bits'), [({}, 8), (dict(bits=2), 2)])
def test_classifier_is_the_quantized_layer(options, bits):
    head = build(**options)
    assert type(head.fc) is MinMaxLinear
    assert head.fc.mac_bits == bits
    features = torch.randn(3, 12)
    layer = MinMaxLinear(12, 5, bits=bits)
    layer.load_state_dict(head.fc.state_dict())
    logits = head((torch.randn(3, 12), features))
    assert torch.equal(logits, layer(features))


def test_fewer_bits_are_coarser():
    features = torch.randn(16, 12)
    errors = []
    for bits in (2, 4, 8):
        head = build(bits=bits)
        plain = F.linear(features, head.fc.weight, head.fc.bias)
        errors.append((head((features,)) - plain).abs().mean().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0


def test_state_dict_is_that_of_the_plain_head():
    plain = LinearClsHead(5, 12)
    plain.load_state_dict(build().state_dict(), strict=True)


def test_loss_is_cross_entropy_and_trains_the_layer():
    head = build()
    features = torch.randn(3, 12)
    labels = [0, 4, 2]
    samples = [DataSample().set_gt_label(label) for label in labels]
    loss = head.loss((features,), samples)['loss']
    expected = F.cross_entropy(head((features,)), torch.tensor(labels))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert head.fc.weight.grad.abs().max() > 0
    assert head.fc.bias.grad.abs().max() > 0


@pytest.mark.parametrize('bits', [0, 33, 2.5, None])
def test_impossible_bits(bits):
    with pytest.raises(ValueError, match='must be an integer from 1 to 32'):
        build(bits=bits)


def test_no_classes_are_an_error():
    with pytest.raises(ValueError, match='num_classes=0'):
        build(num_classes=0)
