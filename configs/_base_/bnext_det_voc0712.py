# Shared parts of BNext's detectors on PASCAL VOC: backbone, pyramid, data and schedule. No
# such detectors are published. The recipe is ours: optimizer and hooks are BNext's, the
# rest is mmdet's.
_base_ = ['./voc0712.py']

# Binary, with one threshold per input channel; with tau > 1 several thresholds
binary_conv = dict(type='ESConv2d', tau=1)
norm_cfg = dict(type='BN')
num_classes = 20

model = dict(
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='BNext',
        arch='tiny',
        # strides 4 to 32
        out_indices=(1, 2, 3, 4),
        norm_cfg=norm_cfg,
        # a classifier's weights, see README.md
        init_cfg=dict(
            type='Pretrained', checkpoint='checkpoints/bnext-tiny.pth', prefix='backbone.'
        ),
    ),
    neck=dict(
        type='FPN',
        in_channels=[128, 256, 512, 1024],
        out_channels=256,
        num_outs=5,
        conv_cfg=binary_conv,
        norm_cfg=norm_cfg,
    ),
)

resize = dict(type='Resize', scale=(1000, 600), keep_ratio=True)
train_pipeline = [*_base_.load_boxes, resize, *_base_.flip_and_pack]
test_pipeline = [_base_.load_image, resize, *_base_.pack_tested]
train_dataloader = dict(
    dataset=dict(
        datasets=[dict(dataset, pipeline=train_pipeline) for dataset in _base_.voc_trainval]
    )
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 24
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=1e-3, fused=True),
    clip_grad=dict(max_norm=5.0),
    constructor='BinaryOptimWrapperConstructor',
    paramwise_cfg=dict(kernel_decay=1e-8),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, milestones=[16, 22], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)

custom_hooks = [
    *_base_.custom_hooks,
    # a trained backbone stays binary; from scratch, signs for the last 16 epochs
    dict(type='TemperatureHook', binary_from=8),
    dict(type='ParameterBoundsHook'),
]

# 4 GPUs with 4 images each
auto_scale_lr = dict(enable=False, base_batch_size=16)
