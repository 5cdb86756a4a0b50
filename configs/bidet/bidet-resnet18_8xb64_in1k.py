# Classifier whose weights initialise BiDet's Faster R-CNN. Its recipe is not published; this
# is ReActNet's recipe, in one stage.
_base_ = ['../_base_/reactnet_stage1_imagenet.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='BiDetResNet',
        widths=(64, 64, 128, 256, 512),
        depths=(4, 4, 4, 4),
        # a classifier reads one copy of the last features
        out_copies='first',
    )
)

custom_hooks = [*_base_.custom_hooks, dict(type='SignFlipHook')]
