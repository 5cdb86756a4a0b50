# BiDet's SSD300 with ES (tau = 2): operations and weight bits of the baseline.
_base_ = ['../bidet/bidet-ssd300_2xb16-300k_voc0712.py']

model = dict(
    backbone=dict(tau=2, init_cfg=dict(checkpoint='checkpoints/es-bidet-vgg16.pth')),
    neck=dict(tau=2),
)
