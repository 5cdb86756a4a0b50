"""Small exports with float networks, for tests of the steps after the network."""

import openvino
import torch
from torch import nn

from mmesbnn.deploy import Manifest, write_manifest

CLASSES = ['cat', 'dog', 'eel']


def write_export(folder, network, example, shapes, outputs, **manifest):
    """Write ``network`` as an export; -1 in ``shapes`` stands for any size."""
    folder.mkdir(parents=True, exist_ok=True)
    model = openvino.convert_model(
        network.eval(), example_input=example, input=[tuple(s) for s in shapes.values()]
    )
    openvino.save_model(model, folder / 'model.xml', compress_to_fp16=False)
    inputs = [{'name': name, 'shape': list(shape)} for name, shape in shapes.items()]
    outputs = [
        {'name': name, 'shape': [d.get_length() if d.is_static else -1 for d in shape]}
        for name, shape in zip(outputs, (port.partial_shape for port in model.outputs))
    ]
    content = dict(inputs=inputs, outputs=outputs, **manifest)
    write_manifest(folder, Manifest.from_dict(content))
    return folder


def preprocessing(*steps, **more):
    return dict(
        steps=list(steps), mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0], to_rgb=True, **more
    )


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


def write_classifier(folder, batch=-1, size=16, **preprocess):
    resize = dict(type='resize', size=[16, 16], interpolation='bilinear', backend='cv2')
    network = Classifier()
    write_export(
        folder,
        network,
        torch.zeros(2, 3, 16, 16),
        {'images': (batch, 3, size, size)},
        ['logits'],
        task='classification',
        classes=CLASSES,
        preprocessing=preprocessing(resize, **preprocess),
        decoding={'activation': 'softmax'},
    )
    return network


class Detector(nn.Module):
    """Returns one box per cell of an 8-pixel grid; size and scores depend on the image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4 + len(CLASSES), 8, stride=8)

    def forward(self, x):
        y = self.conv(x).flatten(2).transpose(1, 2)
        centres = torch.stack(
            torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing='ij')[::-1], -1
        )
        centres = centres.reshape(1, -1, 2) * 8 + 4
        half = 10 * y[..., 2:4].sigmoid() + 4
        boxes = torch.cat([centres - half, centres + half], -1)
        return boxes, y[..., 4:].sigmoid()


DETECTION = dict(score_thr=0.4, iou_thr=0.3, max_per_image=9, levels=None, nms_pre=None)


def write_detector(folder):
    within = dict(type='resize_within', size=[32, 48], interpolation='bilinear', backend='cv2')
    network = Detector()
    write_export(
        folder,
        network,
        torch.zeros(1, 3, 32, 48),
        {'images': (-1, 3, 32, 48)},
        ['boxes', 'scores'],
        task='detection',
        classes=CLASSES,
        preprocessing=preprocessing(within),
        decoding=DETECTION,
    )
    return network


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, sample, timestep):
        return self.conv(sample) + timestep.view(-1, 1, 1, 1) / 1000


def diffusion_decoding(scale=2, steps=5):
    levels = torch.linspace(1e-4, 1e-2, 100, dtype=torch.float64)
    scheduler = dict(
        alphas_cumprod=(1 - levels).cumprod(0).tolist(),
        final_alpha_cumprod=1.0,
        prediction_type='epsilon',
        clip_sample_range=None,
        steps_offset=0,
        num_inference_steps=steps,
    )
    return dict(
        scale=scale, upsampling='matlab_bicubic', multiple=8, x0_clip='data', scheduler=scheduler
    )


def write_denoiser(folder, size=-1):
    network = Denoiser()
    example = (torch.zeros(1, 6, 16, 16), torch.zeros(1))
    write_export(
        folder,
        network,
        example,
        {'sample': (-1, 6, size, size), 'timestep': (-1,)},
        ['prediction'],
        task='super_resolution',
        classes=None,
        preprocessing=preprocessing(),
        decoding=diffusion_decoding(),
    )
    return network
