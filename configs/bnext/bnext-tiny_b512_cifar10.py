# BNext-T on CIFAR-10.
_base_ = ['../_base_/bnext_cifar10.py']

model = dict(backbone=dict(arch='tiny'), head=dict(in_channels=1024))
