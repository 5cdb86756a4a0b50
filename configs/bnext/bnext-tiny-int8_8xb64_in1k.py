# BNext-T with 8-bit stem, squeeze-excite and classifier (0.77e8 OPs). The published code has
# the network, but not its training; this is the recipe of BNext-T.
_base_ = ['./bnext-tiny_8xb64_in1k.py']

model = dict(backbone=dict(stem_bits=8, se_bits=8), head=dict(type='MinMaxLinearClsHead'))
