from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from mmesbnn.binary import binarize
from mmesbnn.binary.data_flow import DataFlow


def found(model, *args):
    """Return the names of the layers that read the inputs, and of those that make the outputs."""
    layers = {n: m for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    with torch.no_grad(), DataFlow(layers, model, args) as flow:
        makers = flow.makers(model(*args))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    return flow.readers, makers


class Upscaler(nn.Module):
    """Predicts what an upsampled image lacks, as UNets of diffusion models do."""

    def __init__(self):
        super().__init__()
        self.time, self.conv_in = nn.Linear(8, 4), nn.Conv2d(6, 4, 3, padding=1)
        self.middle, self.conv_out = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1)

    def forward(self, small, noisy, t):
        large = F.interpolate(small, scale_factor=2)
        time = self.time((t[:, None] * torch.arange(8.0)).sin())[..., None, None]
        x = self.conv_in(2 * torch.cat([large, noisy], 1) - 1) + time
        x = x + self.middle(x)
        return (large + self.conv_out(x)).clamp(0, 1)


class Detector(nn.Module):
    """Gives scores and boxes that are computed from the results of its last layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.tower = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.classes, self.centre = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 1, 1)
        self.boxes, self.auxiliary = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, image):
        x = self.tower(self.stem((image - 0.5) / 0.2).relu()).relu()
        scores = (self.classes(x).sigmoid() * self.centre(x).sigmoid()).sqrt().flatten(1)
        best = scores.topk(3).indices
        boxes = self.boxes(x).exp().flatten(2)[..., best % 4]
        return scores.gather(1, best), boxes, F.interpolate(self.auxiliary(x), scale_factor=2)


class Written(nn.Module):
    """Writes images and results into parts of larger tensors, as torchvision's detectors do."""

    def __init__(self):
        super().__init__()
        self.stem, self.grey = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        self.tower, self.boxes, self.scores = (nn.Conv2d(4, 4, 1) for _ in range(3))

    def forward(self, image):
        batch = image.new_zeros(1, 3, 8, 8)
        batch[0, :, :5, :6].copy_(image[0])
        x = self.tower(self.stem(batch) + self.grey(batch))
        out = x.new_zeros(1, 8, 8, 8)
        out[:, :4] = self.boxes(x)
        out[:, 4:] = self.scores(x).sigmoid()
        return out


class Features(nn.Module):
    """Gives the sums of its residual blocks."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, image):
        x = self.norm(self.a(image)).relu()
        y = x + self.b(x)
        return x, y + self.c(F.layer_norm(y, y.shape[1:]))


def test_an_image_stays_one_when_it_is_scaled_resized_and_joined():
    given = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8), torch.tensor([3.0, 9.0])
    assert found(Upscaler(), *given) == ({'conv_in'}, {'conv_out'})


def test_scores_and_boxes_are_outputs_of_the_layers_that_they_are_computed_from():
    found_last = {'classes', 'centre', 'boxes', 'auxiliary'}
    assert found(Detector().eval(), torch.rand(1, 3, 2, 2)) == ({'stem'}, found_last)


def test_what_is_written_into_a_part_is_in_the_whole():
    readers, makers = found(Written(), torch.randn(1, 3, 5, 6))
    assert (readers, makers) == ({'stem', 'grey'}, {'boxes', 'scores'})


def test_of_a_residual_sum_the_branch_gives_the_output_and_norms_give_features():
    assert found(Features().eval(), torch.rand(1, 3, 4, 4)) == ({'a'}, {'c'})


def test_layers_are_also_followed_through_keywords_and_later_runs():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.step, self.end = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            for _ in range(3):
                x = x + self.step(input=x)
            return x + self.end(x).tanh()

    assert found(Loop(), torch.rand(2, 4)) == ({'step'}, {'end'})


def test_binarize_keeps_all_ends_of_such_networks():
    def kept(model, *example):
        return {x.name for x in binarize(model.eval(), example=example).kept}

    given = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8), torch.tensor([3.0, 9.0])
    assert kept(Upscaler(), *given) == {'conv_in', 'conv_out'}
    ends = {'stem', 'classes', 'centre', 'boxes', 'auxiliary'}
    assert kept(Detector(), torch.rand(1, 3, 2, 2)) == ends


def test_binarize_looks_into_the_objects_that_a_network_reads_and_gives():
    class Sampled(Detector):
        def forward(self, batch):
            scores, boxes, auxiliary = super().forward(batch.image)
            found = SimpleNamespace(scores=scores, boxes=boxes, owner=self)
            return [SimpleNamespace(instances=found), auxiliary]

    batch = SimpleNamespace(image=torch.rand(1, 3, 2, 2))
    report = binarize(Sampled().eval(), keep_first=False, example=batch)
    assert {x.name for x in report.kept} == {'classes', 'centre', 'boxes', 'auxiliary'}
    report = binarize(Sampled().eval(), keep_last=False, example=batch)
    why = 'first layer, reads the input'
    assert [(x.name, x.why) for x in report.kept] == [('stem', why)]


class Joins(nn.Module):
    """Reads its images padded and joined in the ways that are one operator in inference mode."""

    def __init__(self):
        super().__init__()
        self.padded, self.middle = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1)
        self.joined = nn.ModuleList(nn.Conv2d(2, 4, 1) for _ in range(3))

    def forward(self, x):
        y = self.middle(self.padded(F.pad(x, (1, 1, 1, 1), mode='reflect'))).mean()
        images = torch.concat([x, x]), torch.hstack([x[:, :1], x]), torch.vstack([x, x])
        return y + sum(conv(z[:, :2]).mean() for conv, z in zip(self.joined, images))


def test_first_layers_are_the_same_in_inference_mode():
    expected = {'padded', 'joined.0', 'joined.1', 'joined.2'}
    assert found(Joins(), torch.randn(1, 2, 5, 5))[0] == expected
    with torch.inference_mode():
        assert found(Joins(), torch.randn(1, 2, 5, 5))[0] == expected
