# BinaryViT's ImageNet recipe: AdamW 5e-4 without decay, 300 epochs, a DeiT-S teacher.
# Published with automatic mixed precision: add `--amp` to mmpretrain's train.py.
_base_ = ['mmpretrain::_base_/default_runtime.py', './imagenet.py']

custom_imports = dict(imports=['mmesbnn'])

# The labels train nothing: the student learns the teacher's distribution.
model = dict(
    type='DistillClassifier',
    backbone=dict(type='BinaryViT', arch='small', norm_cfg=dict(type='SyncBN')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
    teachers=dict(main=dict(model='deit-small_4xb256_in1k')),
    # with one teacher half its cross-entropy, so twice that
    distill_loss=dict(type='HardnessWeightedKDLoss', loss_weight=2.0),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.08, 1.0),
        backend='pillow',
        interpolation='bilinear',
    ),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='ResizeEdge',
        scale=256,
        edge='short',
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.0),
)
# The published code steps the cosine after the epoch it is meant for: epochs 0 and 1
# share the base rate, the last one is that of epoch 298.
param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        T_max=300,
        eta_min=1e-5,
        by_epoch=True,
        begin=1,
        end=300,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [
    # attention probabilities' `clip` stays positive; at 0 it would get no gradient
    dict(type='ParameterBoundsHook'),
    dict(type='SignFlipHook'),
    dict(type='NaNGuardHook'),
    dict(type='ClassCountHook'),
    dict(type='EpochSeedHook'),
]
randomness = dict(seed=0)

default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=3, save_best='auto'),
)
