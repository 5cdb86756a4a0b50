# The classifier that ES-BiDet's SSD300 begins with.
_base_ = ['../bidet/bidet-vgg16_8xb64_in1k.py']

model = dict(backbone=dict(tau=2))
