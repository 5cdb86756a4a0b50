"""Averages of binary networks are binary."""

import torch
from torch.optim.swa_utils import AveragedModel, update_bn

from mmesbnn.engine.hooks.temperature import binary_share
from mmesbnn.engine.reach import temperature_weights
from tests.engine import toy


def test_torchs_average_has_the_last_temperature_and_statistics_of_its_own():
    torch.manual_seed(0)
    model = toy.ToyClassifier()
    average = AveragedModel(model)
    for temperature in (1.0, 0.1, 2e-14):
        for weight in temperature_weights(model):
            weight.temperature.fill_(temperature)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
        average.update_parameters(model)
    assert binary_share(average) == 1
    images = torch.stack([item['inputs'] for item in toy.images()])
    update_bn([images[:4], images[4:]], average)
    norm = average.module.backbone.stages[0][0].spatial.norm1
    assert norm.num_batches_tracked == 2
    assert norm.momentum == 0.1
    outputs = average.eval()(images)
    assert outputs.isfinite().all()
    assert outputs.std(0).min() > 0
