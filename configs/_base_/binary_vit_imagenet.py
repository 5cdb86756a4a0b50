# BinaryViT's ImageNet recipe: AdamW 5e-4 without decay, 300 epochs, a DeiT-S teacher.
# Published with automatic mixed precision: add `--amp` to mmpretrain's train.py.
_base_ = ['./classifier_runtime.py', './distill_imagenet.py']

model = dict(
    backbone=dict(type='BinaryViT', arch='small', norm_cfg=dict(type='SyncBN')),
    teachers=dict(main=dict(model='deit-small_4xb256_in1k')),
    # with one teacher the loss is half its cross-entropy, so the weight is 2
    distill_loss=dict(loss_weight=2.0),
)

train_pipeline = [
    _base_.load,
    dict(_base_.random_crop, interpolation='bilinear'),
    _base_.flip,
    _base_.pack,
]
test_pipeline = [
    _base_.load,
    dict(_base_.resize_edge, scale=256, interpolation='bicubic'),
    _base_.centre_crop,
    _base_.pack,
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.0, fused=True)
)
# The published code steps the cosine after the epoch it is meant for: epochs 0 and 1
# share the base rate, the last one is that of epoch 298.
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=300, eta_min=1e-5, by_epoch=True, begin=1, end=300)
]

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)

custom_hooks = [
    # keeps `clip` of the attention probabilities positive; at 0 it would get no gradient
    dict(type='ParameterBoundsHook'),
    dict(type='SignFlipHook'),
    *_base_.checks,
]
