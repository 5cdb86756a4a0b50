# BNext's ImageNet recipe: data, augmentation and distillation.
_base_ = ['./bnext_runtime.py', './distill_imagenet.py']

# The student learns from two teachers at a time, the main one and an assistant. After each
# share of the epochs the next assistant takes over.
model = dict(backbone=dict(type='BNext', arch='tiny'), head=dict(in_channels=1024))
custom_hooks = [*_base_.custom_hooks, dict(type='TeacherScheduleHook')]

train_pipeline = [
    _base_.load,
    dict(_base_.random_crop, interpolation='bicubic'),
    _base_.flip,
    # timm's rand-m7-mstd0.5-inc1
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=7,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
    ),
    _base_.pack,
]
test_pipeline = [
    _base_.load,
    # floor(224 / 0.95)
    dict(_base_.resize_edge, scale=235, interpolation='bicubic'),
    _base_.centre_crop,
    _base_.pack,
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
