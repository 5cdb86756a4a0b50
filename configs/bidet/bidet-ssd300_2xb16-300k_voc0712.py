# BiDet's SSD300 as published: 66.0 mAP in the BiDet paper.
_base_ = ['../_base_/bidet_ssd300_voc0712.py']
