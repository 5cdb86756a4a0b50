# BNext-M on ImageNet, the published recipe.
_base_ = ['../_base_/bnext_imagenet.py']

model = dict(
    backbone=dict(arch='middle'),
    head=dict(in_channels=1536),
    teachers=dict(
        assistants=[
            dict(model='efficientnet-b0_3rdparty_8xb32_in1k'),
            dict(model='efficientnet-b2_3rdparty_8xb32_in1k'),
        ],
        main=dict(model='efficientnet-b4_3rdparty_8xb32_in1k'),
    ),
)
