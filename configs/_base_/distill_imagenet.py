# ImageNet with teachers: the classifier learns their distribution. Labels are not used.
# Families make pipelines from the steps below.
_base_ = ['./imagenet.py']

model = dict(
    type='DistillClassifier',
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=512,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
    ),
    distill_loss=dict(type='HardnessWeightedKDLoss'),
)

load = dict(type='LoadImageFromFile')
random_crop = dict(
    type='RandomResizedCrop', scale=224, crop_ratio_range=(0.08, 1.0), backend='pillow'
)
flip = dict(type='RandomFlip', prob=0.5, direction='horizontal')
resize_edge = dict(type='ResizeEdge', edge='short', backend='pillow')
centre_crop = dict(type='CenterCrop', crop_size=224)
pack = dict(type='PackInputs')
