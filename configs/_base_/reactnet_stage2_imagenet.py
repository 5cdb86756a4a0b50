# ReActNet's ImageNet recipe, stage 2 of 2: binary weights and activations. It starts from
# stage 1's weights. The rest of the recipe is that of stage 1, without weight decay.
_base_ = ['./reactnet_stage1_imagenet.py']

model = dict(backbone=dict(weight_binarizer='scaled_sign'))
optim_wrapper = dict(paramwise_cfg=dict(kernel_decay=0.0))

custom_hooks = [
    *_base_.custom_hooks,
    # `load_from` must exist and match in every entry
    dict(type='RequireCheckpointHook'),
    dict(type='SignFlipHook'),
]
