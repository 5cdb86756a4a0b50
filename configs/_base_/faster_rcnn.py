# mmdet's settings for training and testing of Faster R-CNN: `faster_rcnn_train_cfg` and
# `faster_rcnn_test_cfg`. A model uses them or changes entries.
_sampler = dict(type='RandomSampler', neg_pos_ub=-1)
_nms = dict(type='nms', iou_threshold=0.7)

faster_rcnn_train_cfg = dict(
    rpn=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.7,
            neg_iou_thr=0.3,
            min_pos_iou=0.3,
            match_low_quality=True,
            ignore_iof_thr=-1,
        ),
        sampler=dict(_sampler, num=256, pos_fraction=0.5, add_gt_as_proposals=False),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    rpn_proposal=dict(nms_pre=2000, max_per_img=1000, nms=_nms, min_bbox_size=0),
    rcnn=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.5,
            min_pos_iou=0.5,
            match_low_quality=False,
            ignore_iof_thr=-1,
        ),
        sampler=dict(_sampler, num=512, pos_fraction=0.25, add_gt_as_proposals=True),
        pos_weight=-1,
        debug=False,
    ),
)
faster_rcnn_test_cfg = dict(
    rpn=dict(nms_pre=1000, max_per_img=300, nms=_nms, min_bbox_size=0),
    rcnn=dict(score_thr=0.05, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
)
