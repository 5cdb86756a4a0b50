# A SMALL configuration: a narrow ES-BNext on scikit-learn's 1,797 scanned digits, in
# a few minutes on two cores. `make demo` writes the images and runs it.
_base_ = ['../_base_/class_folders.py', '../_base_/classifier_runtime.py']

max_epochs = 30

model = dict(
    type='ImageClassifier',
    backbone=dict(type='BNext', arch=dict(channels=[16, 32, 64, 64, 128]), tau=2, stem_stride=1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=128,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)

data_preprocessor = dict(
    num_classes=10, mean=[76.5, 76.5, 76.5], std=[94.0, 94.0, 94.0], to_rgb=True
)
# the scans are 8x8
enlarge = dict(type='Resize', scale=16, interpolation='bicubic')
train_pipeline = [
    dict(type='LoadImageFromFile'),
    enlarge,
    dict(type='RandomCrop', crop_size=16, padding=2),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='LoadImageFromFile'), enlarge, dict(type='PackInputs')]

train_dataloader = dict(
    num_workers=1,
    persistent_workers=False,
    dataset=dict(data_root='data/digits', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=128, num_workers=1, dataset=dict(data_root='data/digits', pipeline=test_pipeline)
)
test_dataloader = val_dataloader

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=1e-3, fused=True),
    clip_grad=dict(max_norm=5.0),
    constructor='BinaryOptimWrapperConstructor',
    paramwise_cfg=dict(kernel_decay=1e-8),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=3),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        eta_min=1e-6,
        by_epoch=True,
        begin=2,
        end=max_epochs,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)

custom_hooks = [
    # exactly binary for the second half of the training
    dict(type='TemperatureHook', binary_from=15),
    dict(type='ParameterBoundsHook'),
    dict(type='SignFlipHook'),
    *_base_.checks,
]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(interval=5, max_keep_ckpts=2, save_best=None)
)
