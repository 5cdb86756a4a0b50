# The classifier that ES-BiDet's Faster R-CNN begins with.
_base_ = ['../bidet/bidet-resnet18_8xb64_in1k.py']

model = dict(backbone=dict(tau=2))
