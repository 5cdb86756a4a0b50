"""An independent implementation of the published BiDet SSD300.

Random files in the published format, and what the published network computes from such
a file in evaluation, written as plain functions of tensors. It shares no code with
mmesbnn. It was compared with the published code itself (BiDet ``fc54511``): names and
shapes of the file are the same; source maps, box and class predictions agree to 1e-14
in float64; default boxes, detections and losses to 1e-6, being in float32 there.
"""

from dataclasses import dataclass
from itertools import product
from math import sqrt

import torch
import torch.nn.functional as F

from tests.reference.common import batch_norm, bidet_conv, norm_shapes


@dataclass(frozen=True)
class Network:
    """Sizes of the network; the defaults are the published ones.

    Args:
        widths: Of the stem, and of the blocks of every stage.
        depths: Blocks per stage; of all stages but the first, the first block halves.
        tail: Width of the two layers after the stages.
        extras: Widths of the extra layers.
        anchors: Default boxes per pixel of every source map.
        num_classes: Classes, background included.
    """

    widths: tuple = (64, 64, 128, 256, 512, 512)
    depths: tuple = (1, 3, 4, 4, 4)
    tail: int = 1024
    extras: tuple = (256, 512, 128, 256, 128, 256, 128, 256)
    anchors: tuple = (4, 6, 6, 6, 4, 4)
    num_classes: int = 21

    @property
    def sources(self):
        return (self.widths[4], self.tail, *self.extras[1::2])


def blocks(net):
    """Yield index in the layer list, input width, output width and stride of blocks."""
    index = 2
    for stage, depth in enumerate(net.depths):
        for i in range(depth):
            first = i == 0
            width = net.widths[stage] if first else net.widths[stage + 1]
            stride = 2 if first and stage > 0 else 1
            yield index, width, net.widths[stage + 1], stride
            index += 1


# ------------------------------------------------------------------ random files


def base_shapes(net):
    """Return the shapes of the published pretraining file: names without prefix."""
    shapes = {'0.weight': (net.widths[0], 3, 3, 3), **norm_shapes('1', net.widths[0])}
    for index, width, out, stride in blocks(net):
        shapes[f'{index}.conv.weight'] = (out, width, 3, 3)
        shapes.update(norm_shapes(f'{index}.bn', out))
        if stride == 2:
            shapes[f'{index}.downsample.1.weight'] = (out, width, 1, 1)
            shapes.update(norm_shapes(f'{index}.downsample.2', out))
    conv6 = index + 2  # after the max-pool
    return {
        **shapes,
        f'{conv6}.weight': (net.tail, net.widths[-1], 3, 3),
        **norm_shapes(f'{conv6 + 1}', net.tail),
        f'{conv6 + 3}.weight': (net.tail, net.tail, 1, 1),
        f'{conv6 + 3}.bias': (net.tail,),
        **norm_shapes(f'{conv6 + 4}', net.tail),
    }


def shapes(net):
    """Return the shapes of the detector's file."""
    found = {f'vgg.layers.{name}': shape for name, shape in base_shapes(net).items()}
    found['L2Norm.weight'] = (net.sources[0],)
    width = net.tail
    for i, out in enumerate(net.extras):
        kernel = 3 if i % 2 else 1
        found[f'extras.{i}.weight'] = (out, width, kernel, kernel)
        width = out
    for i, out in enumerate(net.extras):
        found.update(norm_shapes(f'extra_bns.{i}', out))
    for part, per_anchor in (('loc', 8), ('conf', net.num_classes)):
        for i, (width, count) in enumerate(zip(net.sources, net.anchors)):
            found[f'{part}.{i}.weight'] = (count * per_anchor, width, 3, 3)
            found[f'{part}.{i}.bias'] = (count * per_anchor,)
    return found


def _value(name, shape, generator):
    if name.endswith('num_batches_tracked'):
        return torch.tensor(7)
    value = torch.randn(shape, generator=generator, dtype=torch.double)
    if name.endswith('running_var'):
        return value.abs() + 0.5
    if len(shape) == 1:  # norms, biases, the scale of L2Norm
        return 0.3 * value + (1 if name.endswith('weight') else 0)
    return value / sqrt(shape[1] * shape[2] * shape[3])


def random_state(net, seed=0, base_only=False):
    """Return a state dict in the published format, in float64."""
    generator = torch.Generator().manual_seed(seed)
    found = base_shapes(net) if base_only else shapes(net)
    return {name: _value(name, shape, generator) for name, shape in found.items()}


# ------------------------------------------------------------------ the network


def base(state, net, x, prefix='vgg.layers.'):
    """Return the maps after the fourth stage and after the tail."""
    state = {k.removeprefix(prefix): v for k, v in state.items()}
    x = batch_norm(F.conv2d(x, state['0.weight'], padding=1), state, '1')
    first, count = None, list(blocks(net))
    for index, _, _, stride in count:
        residual = x
        if stride == 2:
            residual = F.avg_pool2d(residual, 2, ceil_mode=True)
            residual = F.conv2d(residual, state[f'{index}.downsample.1.weight'])
            residual = batch_norm(residual, state, f'{index}.downsample.2')
        y = bidet_conv(x, state[f'{index}.conv.weight'], stride=stride)
        x = batch_norm(y, state, f'{index}.bn') + residual
        if index == 1 + sum(net.depths[:4]):
            first = x
    conv6 = count[-1][0] + 2
    x = F.max_pool2d(x, 3, 1, 1)
    x = bidet_conv(x, state[f'{conv6}.weight'], padding=6, dilation=6)
    x = batch_norm(x, state, f'{conv6 + 1}').relu()
    x = F.conv2d(x, state[f'{conv6 + 3}.weight'], state[f'{conv6 + 3}.bias'])
    return first, batch_norm(x, state, f'{conv6 + 4}').relu()


def sources(state, net, x):
    """Return the maps that the heads read."""
    first, x = base(state, net, x)
    length = first.pow(2).sum(1, keepdim=True).sqrt() + 1e-10
    maps = [state['L2Norm.weight'].view(1, -1, 1, 1) * first / length, x]
    for i in range(len(net.extras)):
        stride, padding = (2, 1) if i in (1, 3) else (1, 0)
        x = bidet_conv(x, state[f'extras.{i}.weight'], stride=stride, padding=padding)
        x = batch_norm(x, state, f'extra_bns.{i}')
        if i % 2:
            maps.append(x)
    return maps


def raw_outputs(state, net, x):
    """Return box distributions ``(N, boxes, 8)`` and logits ``(N, boxes, classes)``."""
    maps = sources(state, net, x)

    def predict(part, size):
        found = [
            F.conv2d(m, state[f'{part}.{i}.weight'], state[f'{part}.{i}.bias'], 1, 1)
            for i, m in enumerate(maps)
        ]
        flat = [f.permute(0, 2, 3, 1).reshape(f.shape[0], -1, size) for f in found]
        return torch.cat(flat, 1)

    return predict('loc', 8), predict('conf', net.num_classes)


# ------------------------------------------------------------------ default boxes


def default_boxes():
    """Return all 8732: (centre x, centre y, width, height) over the image's size."""
    maps, steps = (38, 19, 10, 5, 3, 1), (8, 16, 32, 64, 100, 300)
    small, large = (30, 60, 111, 162, 213, 264), (60, 111, 162, 213, 264, 315)
    ratios = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    boxes = []
    for k, size in enumerate(maps):
        s = small[k] / 300
        shapes = [(s, s), (sqrt(s * large[k] / 300),) * 2]
        for r in ratios[k]:
            shapes += [(s * sqrt(r), s / sqrt(r)), (s / sqrt(r), s * sqrt(r))]
        for i, j in product(range(size), repeat=2):
            centre = (j + 0.5) * steps[k] / 300, (i + 0.5) * steps[k] / 300
            boxes += [(*centre, *shape) for shape in shapes]
    return torch.tensor(boxes, dtype=torch.double).clamp(0, 1)


def decode(loc, priors):
    """Return the corners of the boxes of the means ``(boxes, 4)``."""
    centre = priors[:, :2] + 0.1 * loc[:, :2] * priors[:, 2:]
    size = priors[:, 2:] * (0.2 * loc[:, 2:]).exp()
    return torch.cat([centre - size / 2, centre + size / 2], 1)


def iou(box, boxes):
    size = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(
        min=0
    )
    inter = size.prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return inter / (areas + (box[2:] - box[:2]).prod() - inter)


def suppress(boxes, scores, threshold, iou_threshold=0.45, top=200):
    """Return the indices of one class's detections, by falling score."""
    order = scores.sort(descending=True).indices
    order = order[scores[order] > threshold][:top]
    kept = []
    while len(order):
        kept.append(order[0].item())
        rest = order[1:]
        order = rest[iou(boxes[kept[-1]], boxes[rest]) <= iou_threshold]
    return kept


def detections(loc, conf, threshold=0.01):
    """Return a list of (class, score, box) of one image, classes counted from 0."""
    boxes, found = decode(loc[:, 4:], default_boxes().to(loc)), []
    scores = conf.softmax(1)[:, 1:]
    for label, column in enumerate(scores.unbind(1)):
        for i in suppress(boxes, column, threshold):
            found.append((label, column[i].item(), boxes[i].tolist()))
    return found


def prior_loss(loc, conf, labels, threshold=0.03, weight=0.2):
    """The published loss of sampled boxes ``loc`` ``(N, boxes, 4)``; labels per image.

    Without the 1e-6 that is added to the number of terms.
    """
    terms = []
    for box, logits, present in zip(loc, conf, labels):
        boxes, scores = decode(box, default_boxes().to(box)), logits.softmax(1)[:, 1:]
        for label in present.unique().tolist():
            kept = suppress(boxes.detach(), scores[:, label].detach(), threshold)
            objects = int((present == label).sum())
            if len(kept) > objects:
                p = scores[kept, label] / scores[kept, label].detach().sum()
                terms.append(-(p * p.log()).sum() / objects)
    return weight * torch.stack(terms).mean() if terms else conf.sum() * 0


def match(boxes, labels, priors):
    """Return object and class of every default box; class 0 is the background.

    Args:
        boxes: Objects ``(n, 4)``, corners over the image's size.
        labels: Their classes from 0, ``(n,)``.
        priors: Default boxes ``(p, 4)``, centres and sides.
    """
    corners = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], 1)
    overlaps = torch.stack([iou(box, corners) for box in boxes])
    best, owner = overlaps.max(0)
    for i, favourite in enumerate(overlaps.argmax(1)):
        owner[favourite], best[favourite] = i, 2
    return owner, torch.where(best < 0.5, 0, labels[owner] + 1)


def multibox_loss(loc, conf, objects):
    """Return the published classification and box losses of a batch.

    Args:
        loc: Sampled boxes ``(N, boxes, 4)``.
        conf: Logits ``(N, boxes, classes)``, background first.
        objects: Corners over the image's size, and classes from 0, per image.
    """
    priors, count, box_loss, class_loss = default_boxes().to(loc), 0, 0, 0
    for of_image, logits, (boxes, labels) in zip(loc, conf, objects):
        owner, target = match(boxes, labels, priors)
        positive = target > 0
        matched, prior = boxes[owner][positive], priors[positive]
        centre = ((matched[:, :2] + matched[:, 2:]) / 2 - prior[:, :2]) / prior[:, 2:]
        size = ((matched[:, 2:] - matched[:, :2]) / prior[:, 2:]).log()
        wanted = torch.cat([centre / 0.1, size / 0.2], 1)
        box_loss += F.smooth_l1_loss(of_image[positive], wanted, reduction='sum')
        losses = F.cross_entropy(logits, target, reduction='none')
        negatives = losses[~positive].sort(descending=True).values
        class_loss += losses[positive].sum() + negatives[: 3 * positive.sum()].sum()
        count += positive.sum()
    return class_loss / count, box_loss / count
