# ES-BNext-T (tau = 2) on ImageNet: 0.89e8 OPs, 75.2 % top-1 in the paper. The released code of
# the paper trains real weights, because it never lowers its temperature. The figure is
# therefore not known to hold for binary weights.
#   mim train mmpretrain configs/es_bnext_tiny.py --launcher pytorch --gpus 8
_base_ = ['./bnext/bnext-tiny_8xb64_in1k.py']

model = dict(backbone=dict(tau=2))
