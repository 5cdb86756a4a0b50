# ES-BNext-T (tau = 2) on CIFAR-100.
_base_ = ['./bnext-tiny_b512_cifar100.py']

model = dict(backbone=dict(tau=2))
