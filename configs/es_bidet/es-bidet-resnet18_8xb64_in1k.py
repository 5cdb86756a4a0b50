# Classifier whose weights initialise ES-BiDet's Faster R-CNN.
_base_ = ['../bidet/bidet-resnet18_8xb64_in1k.py']

model = dict(backbone=dict(tau=2))
