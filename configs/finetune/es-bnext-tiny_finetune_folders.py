# Fine-tuning ES-BNext-T on your own classes; see configs/finetune/README.md. The recipe is
# ours and a starting point: it has not been optimised.
_base_ = ['../_base_/class_folders.py', '../_base_/classifier_runtime.py']

# Change these: classes, folders (data_root/train/CLASS/*.jpg, and val), weights
num_classes = 10
data_root = 'data/mine'
load_from = 'checkpoints/es-bnext-tiny.pth'
max_epochs = 20

model = dict(
    type='ImageClassifier',
    backbone=dict(type='BNext', arch='tiny', tau=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=num_classes,
        in_channels=1024,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
data_preprocessor = dict(
    num_classes=num_classes,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

# learning rate: a tenth of the training's, and a hundredth for the binary backbone
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=1e-3, fused=True),
    clip_grad=dict(max_norm=5.0),
    constructor='BinaryOptimWrapperConstructor',
    paramwise_cfg=dict(kernel_decay=1e-8, custom_keys={'backbone': dict(lr_mult=0.1)}),
)
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=1e-7, by_epoch=True, end=max_epochs)
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)

custom_hooks = [
    # binary from the first step on
    dict(type='TemperatureHook', initial=1e-8),
    # the weights must exist and match, except for the head
    dict(type='RequireCheckpointHook', new=['head.']),
    dict(type='ParameterBoundsHook'),
    dict(type='SignFlipHook'),
    *_base_.checks,
]
