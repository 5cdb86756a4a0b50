# Classifier whose weights initialise BiDet's SSD300. Its recipe is not published; this is
# ReActNet's recipe, in one stage.
_base_ = ['../_base_/reactnet_stage1_imagenet.py']

model = dict(
    backbone=dict(_delete_=True, type='BiDetVGG', out_indices=(-1,)), head=dict(in_channels=1024)
)

custom_hooks = [*_base_.custom_hooks, dict(type='SignFlipHook')]
