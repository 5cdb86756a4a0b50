# BNext-18 on CIFAR-10.
_base_ = ['../_base_/bnext_cifar10.py']
