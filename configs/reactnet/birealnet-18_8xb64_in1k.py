# Bi-Real-18 on ImageNet, the published recipe: from scratch, labels, no teacher.
_base_ = ['../_base_/reactnet_stage1_imagenet.py']

model = dict(
    _delete_=True,
    type='ImageClassifier',
    backbone=dict(type='ReActNet', arch='18', generalized=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original', loss_weight=1.0),
        topk=(1, 5),
    ),
)

optim_wrapper = dict(optimizer=dict(lr=1e-3), paramwise_cfg=dict(kernel_decay=0.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1.0, end_factor=0.0, by_epoch=True, begin=0, end=257)
]
train_cfg = dict(max_epochs=256)

custom_hooks = [*_base_.custom_hooks, dict(type='SignFlipHook')]
