# ES-BNext-18 (tau = 2) on CIFAR-10.
_base_ = ['./bnext-18_b512_cifar10.py']

model = dict(backbone=dict(tau=2))
