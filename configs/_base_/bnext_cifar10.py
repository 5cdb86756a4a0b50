# BNext's CIFAR recipe: random crops and flips, labels, no teacher.
_base_ = ['./bnext_runtime.py']

model = dict(
    type='ImageClassifier',
    # 32x32 images: the stem keeps the resolution
    backbone=dict(type='BNext', arch='18', stem_stride=1),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=10,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)

# (.507, .487, .441) and (.267, .256, .276): published for CIFAR-10 and CIFAR-100
data_preprocessor = dict(
    num_classes=10, mean=[129.285, 124.185, 112.455], std=[68.085, 65.28, 70.38], to_rgb=False
)

train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

train_dataloader = dict(
    batch_size=512,
    num_workers=4,
    persistent_workers=False,
    dataset=dict(type='CIFAR10', data_root='data/cifar10', split='train', pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=512,
    num_workers=4,
    dataset=dict(type='CIFAR10', data_root='data/cifar10', split='test', pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

auto_scale_lr = dict(enable=False, base_batch_size=512)
