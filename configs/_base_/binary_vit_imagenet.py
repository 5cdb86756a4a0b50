# BinaryViT's ImageNet recipe: AdamW 5e-4 without decay, 300 epochs, a DeiT-S teacher.
# Published with automatic mixed precision: add `--amp` to mmpretrain's train.py.
_base_ = ['mmpretrain::_base_/default_runtime.py']

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

data_preprocessor = dict(
    num_classes=1000,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
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

# 8 GPUs with 64 images each: the published batch of 512
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    dataset=dict(
        type='ImageNet',
        data_root='data/imagenet',
        split='train',
        pipeline=train_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    dataset=dict(
        type='ImageNet',
        data_root='data/imagenet',
        split='val',
        pipeline=test_pipeline,
    ),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

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
auto_scale_lr = dict(base_batch_size=512)

train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()

custom_hooks = [
    # attention probabilities' `clip` stays positive; at 0 it would get no gradient
    dict(type='ParameterBoundsHook'),
    dict(type='SignFlipHook'),
    dict(type='NaNGuardHook'),
]

default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=3, save_best='auto'),
)
