"""An independent implementation of BiDet's published Faster R-CNN.

Random files in the published format, and the raw outputs that the published code
computes from such a file, as plain functions of tensors written from the formulas. It
shares no code with mmesbnn. Boxes are the means of their distributions; the published
code adds noise of standard deviation 0.001 times the predicted one, at test too.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torchvision.ops import roi_align

from tests.reference.common import batch_norm, bidet_conv, norm_shapes


@dataclass(frozen=True)
class Network:
    """Arguments and constants of the published constructor.

    Args:
        widths: Channels of the stem and the four stages.
        blocks: Blocks of two convolutions per stage.
        classes: Classes, background included.
        anchors: Anchors per pixel.
        rpn: Channels of the proposal network.
    """

    widths: tuple = (8, 8, 16, 16, 24)
    blocks: tuple = (1, 2, 1, 2)
    classes: int = 5
    anchors: int = 9
    rpn: int = 12


def _blocks(net, stages):
    """Yield prefix, inputs, outputs and stride of every convolution."""
    for s, stage in enumerate(stages):
        for block in range(net.blocks[s]):
            first = block == 0
            inputs = net.widths[s] if first else net.widths[s + 1]
            stride = 2 if first and s > 0 else 1
            yield f'{stage}.{block}.conv1', inputs, net.widths[s + 1], stride
            yield f'{stage}.{block}.conv2', net.widths[s + 1], net.widths[s + 1], 1


DETECTOR = ('RCNN_base.3', 'RCNN_base.4', 'RCNN_base.5', 'RCNN_top.0')
CLASSIFIER = ('layer1', 'layer2', 'layer3', 'layer4')


def _feature_shapes(net, stages, conv, norm):
    shapes = {f'{conv}.weight': (net.widths[0], 3, 7, 7), **norm_shapes(norm, net.widths[0])}
    for prefix, inputs, outputs, stride in _blocks(net, stages):
        shapes[f'{prefix}.conv.weight'] = (outputs, inputs, 3, 3)
        shapes.update(norm_shapes(f'{prefix}.bn', outputs))
        if stride != 1 or inputs != outputs:
            shapes[f'{prefix}.res_func.1.weight'] = (outputs, inputs, 1, 1)
            shapes.update(norm_shapes(f'{prefix}.res_func.2', outputs))
    return shapes


def detector_shapes(net):
    layers = {
        'RCNN_rpn.RPN_Conv.0': (net.rpn, net.widths[3], 3, 3),
        'RCNN_rpn.RPN_cls_score': (2 * net.anchors, net.rpn, 1, 1),
        'RCNN_rpn.RPN_bbox_pred': (8 * net.anchors, net.rpn, 1, 1),
        'RCNN_cls_score': (net.classes, net.widths[4]),
        'RCNN_bbox_pred': (8, net.widths[4]),
    }
    shapes = _feature_shapes(net, DETECTOR, 'RCNN_base.0', 'RCNN_base.1')
    shapes.update(norm_shapes('RCNN_rpn.RPN_Conv.1', net.rpn))
    for name, shape in layers.items():
        shapes.update({f'{name}.weight': shape, f'{name}.bias': shape[:1]})
    return shapes


def classifier_shapes(net):
    shapes = _feature_shapes(net, CLASSIFIER, 'conv1', 'bn1')
    fc = {'fc.weight': (net.classes, net.widths[4]), 'fc.bias': (net.classes,)}
    return {**shapes, **fc}


def random_state(shapes, seed=0):
    """Return a state dict of these shapes in double, with some weights exactly 0."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        if name.endswith('num_batches_tracked'):
            state[name] = torch.tensor(7)
            continue
        value = torch.randn(shape, generator=generator, dtype=torch.double)
        if name.endswith('running_var'):
            value = value.abs() + 0.5
        if len(shape) == 4:
            value = torch.where(value.abs() < 0.02, 0.0, 0.2 * value)
        state[name] = value
    return state


def stage(state, net, index, stages, x):
    for prefix, _, _, stride in _blocks(net, stages):
        if not prefix.startswith(f'{stages[index]}.'):
            continue
        residual = x
        if f'{prefix}.res_func.1.weight' in state:
            if stride == 2:
                residual = F.avg_pool2d(x, 2, 2, ceil_mode=True)
            residual = F.conv2d(residual, state[f'{prefix}.res_func.1.weight'])
            residual = batch_norm(residual, state, f'{prefix}.res_func.2')
        y = bidet_conv(x, state[f'{prefix}.conv.weight'], stride=stride)
        x = batch_norm(y, state, f'{prefix}.bn') + residual
    return x


def base(state, net, images):
    """Return the map of stride 16."""
    x = F.conv2d(images, state['RCNN_base.0.weight'], None, 2, 3)
    x = F.max_pool2d(batch_norm(x, state, 'RCNN_base.1'), 3, 2, 1)
    for index in range(3):
        x = stage(state, net, index, DETECTOR, x)
    return x


def rpn(state, net, features):
    """Return foreground probability (N, A, H, W) and box means (N, 4 A, H, W)."""
    prefix = 'RCNN_rpn.RPN_Conv.0'
    x = bidet_conv(features, state[f'{prefix}.weight'], state[f'{prefix}.bias'])
    x = batch_norm(x, state, 'RCNN_rpn.RPN_Conv.1')

    def one_by_one(name):
        return F.conv2d(x, state[f'{name}.weight'], state[f'{name}.bias'])

    scores = one_by_one('RCNN_rpn.RPN_cls_score')
    # the first half of the channels is background
    scores = scores.unflatten(1, (2, net.anchors)).softmax(1)[:, 1]
    boxes = one_by_one('RCNN_rpn.RPN_bbox_pred')
    boxes = boxes.unflatten(1, (net.anchors, 8))[:, :, 4:].flatten(1, 2)
    return scores, boxes


def regions(state, net, features, rois):
    """Return probabilities, background first, and box means of regions (R, 5)."""
    x = roi_align(features, rois, 7, 1 / 16, sampling_ratio=0, aligned=False)
    x = stage(state, net, 3, DETECTOR, x).mean(3).mean(2)
    scores = F.linear(x, state['RCNN_cls_score.weight'], state['RCNN_cls_score.bias'])
    boxes = F.linear(x, state['RCNN_bbox_pred.weight'], state['RCNN_bbox_pred.bias'])
    return scores.softmax(1), boxes[:, 4:]


def logits(state, net, images):
    """Return the logits of the classifier, which ends in log softmax."""
    x = F.conv2d(images, state['conv1.weight'], None, 2, 3)
    x = F.max_pool2d(batch_norm(x, state, 'bn1'), 3, 2, 1)
    for index in range(4):
        x = stage(state, net, index, CLASSIFIER, x)
    return F.linear(x.mean((2, 3)), state['fc.weight'], state['fc.bias'])
