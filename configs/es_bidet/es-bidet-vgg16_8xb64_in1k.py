# Classifier whose weights initialise ES-BiDet's SSD300.
_base_ = ['../bidet/bidet-vgg16_8xb64_in1k.py']

model = dict(backbone=dict(tau=2))
