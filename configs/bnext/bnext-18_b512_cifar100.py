# BNext-18 on CIFAR-100.
_base_ = ['../_base_/bnext_cifar100.py']
