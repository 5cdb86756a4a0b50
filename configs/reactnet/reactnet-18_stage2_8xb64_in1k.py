# ReActNet-18 on ImageNet, stage 2: binary weights and activations.
_base_ = ['../_base_/reactnet_stage2_imagenet.py']

load_from = 'work_dirs/reactnet-18_stage1_8xb64_in1k/epoch_128.pth'
