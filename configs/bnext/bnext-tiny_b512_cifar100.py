# BNext-T on CIFAR-100.
_base_ = ['../_base_/bnext_cifar100.py']

model = dict(backbone=dict(arch='tiny'), head=dict(in_channels=1024))
