# BNext-L on ImageNet, the published recipe.
_base_ = ['../_base_/bnext_imagenet.py']

model = dict(
    backbone=dict(arch='large'),
    head=dict(in_channels=2048),
    teachers=dict(
        assistants=[
            dict(model='efficientnet-b0_3rdparty_8xb32_in1k'),
            dict(model='efficientnet-b4_3rdparty_8xb32_in1k'),
            dict(model='convnext-tiny_32xb128_in1k'),
        ],
        main=dict(model='convnext-tiny_32xb128_in1k'),
    ),
)

# the published batch of 128
train_dataloader = dict(batch_size=16)
auto_scale_lr = dict(enable=False, base_batch_size=128)
