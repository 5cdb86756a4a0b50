# BNext-18 on ImageNet. It was published without a recipe; this is BNext-T's recipe.
_base_ = ['../_base_/bnext_imagenet.py']

model = dict(
    backbone=dict(arch='18'),
    head=dict(in_channels=512),
    teachers=dict(
        assistants=[dict(model='efficientnet-b0_3rdparty_8xb32_in1k')],
        main=dict(model='efficientnet-b2_3rdparty_8xb32_in1k'),
    ),
)
