# BNext-T on ImageNet, the published recipe.
_base_ = ['../_base_/bnext_imagenet.py']

model = dict(
    backbone=dict(arch='tiny'),
    head=dict(in_channels=1024),
    teachers=dict(
        assistants=[dict(model='efficientnet-b0_3rdparty_8xb32_in1k')],
        main=dict(model='efficientnet-b2_3rdparty_8xb32_in1k'),
    ),
)
