"""List of the components that a config in a file may name.

Building a component calls its class with the values of the config. Many classes of
OpenMMLab read files, load pickles or ask a hub when they are built. A config from a file
may therefore name only the classes listed here. Their constructors were read: they build
layers from numbers and words. ``tests/campaigns/test_stored_configs.py`` gives each of them
paths and checks that no path is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from mmengine.registry import DATASETS, MODELS, TASK_UTILS, TRANSFORMS, Registry

from ...binary.entries import SIGNS, WEIGHT_BINARIZERS
from ...optional import require

#: Scopes that a config in a file may name, and the extras that install them, if any do.
SCOPES = {'mmpretrain': 'cls', 'mmdet': 'det', 'mmseg': None}

_OWN = """
    BNext BiDetBBoxHead BiDetRPNHead BiDetResNet BiDetResStage BiDetRoIHead
    BiDetSSDHead BiDetSSDNeck BiDetVGG BIDiffSRResidualUNet BIDiffSRUNet
    BinarizedUNet2DModel BinaryConv2d BinaryLinear BinaryMultiheadAttention
    BinaryViT ClippedSSDAnchorGenerator ESConv2d ESLinear FeatureEnergyLoss
    HardnessWeightedKDLoss MinMaxLinearClsHead ReActNet RoundedAnchorGenerator
    SRDataPreprocessor SRDiffusion SparseObjectLoss VariationalBoxes
    BinaryTransformer binary_transformer
"""
#: Components of torch, mmcv and mmengine in the root registries.
_BASIC = """
    BN BN1d BN2d BN3d GN IN IN1d IN2d IN3d LN SyncBN Clamp Clip ELU GELU HSigmoid
    HSwish LeakyReLU PReLU RReLU ReLU ReLU6 SiLU Sigmoid Swish Tanh Conv
    Conv1d Conv2d Conv2dAdaptivePadding Conv3d ConvAWS ConvModule ConvTranspose2d
    ConvTranspose3d ConvWS DCN DCNv2 Linear deconv deconv3d bilinear carafe nearest
    pixel_shuffle reflect replicate zero BaseTransformerLayer ContextBlock DropPath
    Dropout FFN GeneralizedAttention MultiScaleDeformableAttention
    MultiheadAttention NonLocal2d BaseDataPreprocessor ImgDataPreprocessor
"""
_MMPRETRAIN = """
    AlexNet BEiTViT CSPDarkNet CSPResNeXt CSPResNet Conformer ConvMixer ConvNeXt
    DaViT DeiT3 DenseNet DistilledVisionTransformer EdgeNeXt EfficientFormer
    EfficientNet EfficientNetV2 HRNet HiViT HorNet InceptionV3 LeNet5 LeViT MViT
    MlpMixer MobileNetV2 MobileNetV3 MobileOne MobileViT PCPVT PoolFormer PyramidVig
    RIFormer RegNet RepLKNet RepMLPNet RepVGG Res2Net ResNeSt ResNeXt ResNet
    ResNetV1c ResNetV1d ResNet_CIFAR RevVisionTransformer SEResNeXt SEResNet SVT
    ShuffleNetV1 ShuffleNetV2 SwinTransformer SwinTransformerV2 T2T_ViT TNT TinyViT
    VAN VGG ViTEVA02 ViTSAM Vig VisionTransformer XCiT ImageClassifier
    GeneralizedMeanPooling GlobalAveragePooling HRFuseScales CSRAClsHead ClsHead
    ConformerHead DeiTClsHead EfficientFormerClsHead LeViTClsHead LinearClsHead
    MultiLabelClsHead MultiLabelLinearClsHead StackedLinearClsHead VigClsHead
    VisionTransformerClsHead AsymmetricLoss CrossEntropyLoss FocalLoss
    LabelSmoothLoss SeesawLoss ClsDataPreprocessor CutMix Mixup ResizeMix GRN LN2d
    QuickGELU ShiftWindowMSA
"""
_MMDET = """
    ATSS AutoAssign CascadeRCNN CenterNet DDOD FCOS FOVEA FSAF FastRCNN FasterRCNN
    GFL MaskRCNN NASFCOS PAA RPN RTMDet RepPointsDetector RetinaNet SOLO SOLOv2
    SingleStageDetector SingleStageInstanceSegmentor TOOD TwoStageDetector VFNet
    YOLACT YOLOF YOLOV3 YOLOX CSPDarknet CSPNeXt Darknet EfficientNet HRNet
    HourglassNet MobileNetV2 RegNet Res2Net ResNeSt ResNeXt ResNet ResNetV1d SSDVGG
    SwinTransformer TridentResNet BFP CSPNeXtPAFPN CTResNetNeck ChannelMapper
    DilatedEncoder DyHead FPG FPN FPN_CARAFE HRFPN NASFCOS_FPN NASFPN PAFPN SSDNeck
    SSH YOLOV3Neck YOLOXPAFPN ATSSHead AnchorFreeHead AnchorHead AutoAssignHead
    CenterNetHead CenterNetUpdateHead DDODHead FCOSHead FSAFHead FoveaHead
    FreeAnchorRetinaHead GFLHead LADHead LDHead NASFCOSHead PAAHead RPNHead RTMDetHead
    RTMDetInsHead RTMDetInsSepBNHead RTMDetSepBNHead RepPointsHead RetinaHead
    RetinaSepBNHead SSDHead TOODHead VFNetHead YOLOFHead YOLOV3Head YOLOXHead
    BBoxHead CascadeRoIHead ConvFCBBoxHead DoubleConvFCBBoxHead DoubleHeadRoIHead
    DynamicRoIHead FCNMaskHead GenericRoIExtractor ResLayer Shared2FCBBoxHead
    Shared4Conv1FCBBoxHead SingleRoIExtractor StandardRoIHead BalancedL1Loss
    BoundedIoULoss CIoULoss CrossEntropyLoss DIoULoss DiceLoss DistributionFocalLoss
    EIoULoss FocalLoss GHMC GHMR GIoULoss GaussianFocalLoss IoULoss
    KnowledgeDistillationKLDivLoss L1Loss MSELoss
    QualityFocalLoss SIoULoss SeesawLoss SmoothL1Loss VarifocalLoss ATSSAssigner
    ApproxMaxIoUAssigner BBoxL1Cost BboxOverlaps2D CenterRegionAssigner
    ClassificationCost DynamicSoftLabelAssigner FocalLossCost GridAssigner
    HungarianAssigner IoUCost MaxIoUAssigner PointAssigner RegionAssigner
    SimOTAAssigner TaskAlignedAssigner UniformAssigner CombinedSampler
    InstanceBalancedPosSampler IoUBalancedNegSampler OHEMSampler PseudoSampler
    RandomSampler ScoreHLRSampler BucketingBBoxCoder DeltaXYWHBBoxCoder
    DistancePointBBoxCoder LegacyDeltaXYWHBBoxCoder PseudoBBoxCoder TBLRBBoxCoder
    YOLOBBoxCoder AnchorGenerator LegacyAnchorGenerator LegacySSDAnchorGenerator
    MlvlPointGenerator PointGenerator SSDAnchorGenerator YOLOAnchorGenerator
    BatchFixedSizePad BatchResize BatchSyncRandomResize DetDataPreprocessor
    DropBlock FrozenBN NormedConv2d NormedLinear SinePositionalEncoding
"""
_MMSEG = """
    CascadeEncoderDecoder EncoderDecoder HRNet MixVisionTransformer MobileNetV2
    MobileNetV3 ResNeSt ResNeXt ResNet ResNetV1c ResNetV1d SwinTransformer UNet FPN
    Feature2Pyramid MultiLevelNeck ASPPHead DepthwiseSeparableASPPHead
    DepthwiseSeparableFCNHead FCNHead FPNHead LRASPPHead OCRHead PSPHead
    SegformerHead UPerHead CrossEntropyLoss DiceLoss FocalLoss LovaszLoss
    TverskyLoss SegDataPreProcessor OHEMPixelSampler
"""
_TRANSFORMS_BASIC = """
    CenterCrop LoadAnnotations LoadImageFromFile Normalize Pad
    RandomChoiceResize RandomFlip RandomGrayscale RandomResize Resize
"""
_TRANSFORMS_MMPRETRAIN = """
    ColorJitter EfficientNetCenterCrop EfficientNetRandomCrop Lighting NumpyToPIL
    PILToNumpy PackInputs RandomCrop RandomErasing RandomResizedCrop ResizeEdge
    Transpose
"""
_TRANSFORMS_MMDET = """
    Expand FilterAnnotations FixScaleResize FixShapeResize LoadAnnotations
    LoadEmptyAnnotations LoadImageFromNDArray MinIoURandomCrop PackDetInputs Pad
    PhotoMetricDistortion RandomCenterCropPad RandomCrop RandomFlip Resize ResizeShortestEdge
    ImageToTensor ToTensor
"""
_TRANSFORMS_MMSEG = """
    LoadAnnotations PackSegInputs PhotoMetricDistortion RandomCrop RandomFlip Resize
    ResizeShortestEdge ResizeToMultiple
"""
#: Data sets; only their names of classes are read, and no data set is built.
_DATASETS_MMPRETRAIN = """
    BaseDataset CIFAR10 CIFAR100 CUB Caltech101 CustomDataset DTD FGVCAircraft
    FashionMNIST Flowers102 Food101 ImageNet ImageNet21k InShop MNIST OxfordIIITPet
    Places205 SUN397 StanfordCars VOC
"""
_DATASETS_MMDET = """
    BaseDetDataset CityscapesDataset CocoDataset CrowdHumanDataset
    DeepFashionDataset LVISV05Dataset LVISV1Dataset Objects365V1Dataset
    Objects365V2Dataset OpenImagesDataset V3DetDataset VOCDataset WIDERFaceDataset
    XMLDataset
"""
_DATASETS_MMSEG = """
    ADE20KDataset BaseSegDataset COCOStuffDataset CityscapesDataset
    PascalContextDataset PascalVOCDataset
"""

#: Values of ``type=`` that are not in the registries below: functions and layers of mmcv's
#: operators, and the signs and weight binarizers of this package. Those of other packages are
#: not among them.
_FUNCTIONS = 'nms soft_nms RoIAlign RoIPool'
WORDS = frozenset([*_FUNCTIONS.split(), *SIGNS.own, *WEIGHT_BINARIZERS.own])

#: Names by kind of component, registries and package of the module.
LISTED: dict[str, dict[str, frozenset[str]]] = {
    'model': {
        'mmesbnn': frozenset(_OWN.split()),
        'mmcv': frozenset(_BASIC.split()),
        'mmpretrain': frozenset(_MMPRETRAIN.split()),
        'mmdet': frozenset(_MMDET.split()),
        'mmseg': frozenset(_MMSEG.split()),
    },
    'transform': {
        'mmesbnn': frozenset(),
        'mmcv': frozenset(_TRANSFORMS_BASIC.split()),
        'mmpretrain': frozenset(_TRANSFORMS_MMPRETRAIN.split()),
        'mmdet': frozenset(_TRANSFORMS_MMDET.split()),
        'mmseg': frozenset(_TRANSFORMS_MMSEG.split()),
    },
    'dataset': {
        'mmesbnn': frozenset(['CheckedVOCDataset', 'PairedSRDataset', 'SeededConcatDataset']),
        'mmcv': frozenset(),
        'mmpretrain': frozenset(_DATASETS_MMPRETRAIN.split()),
        'mmdet': frozenset(_DATASETS_MMDET.split()),
        'mmseg': frozenset(_DATASETS_MMSEG.split()),
    },
}
_ROOTS: dict[str, tuple[Registry, ...]] = {
    'model': (MODELS, TASK_UTILS),
    'transform': (TRANSFORMS,),
    'dataset': (DATASETS,),
}
_BASIC_PACKAGES = ('torch', 'mmcv', 'mmengine')


def _registries(kind: str, scope: str | None) -> Iterator[Registry]:
    """Yield the registries of a known scope, with all their components loaded."""
    if scope is None:
        yield from _ROOTS[kind]
        return
    require(scope, SCOPES[scope], 'The network')
    own = import_module(f'{scope}.registry')
    for root in _ROOTS[kind]:
        registry = root._search_child(scope)
        if registry is not None:  # an empty registry is false
            yield registry
    if kind == 'model' and scope == 'mmpretrain':  # which has no parent
        yield own.BATCH_AUGMENTS


def _found(kind: str, name: str, scope: str | None) -> Iterator[Any]:
    """Yield the components that registries hold under ``name``, without importing modules."""
    for first in _registries(kind, scope):
        registry: Registry | None = first
        while registry is not None:
            registry.import_from_location()
            if name in registry.module_dict:
                yield registry.module_dict[name]
                break
            registry = registry.parent


def _is_listed(kind: str, name: str, component: Any) -> bool:
    package = (getattr(component, '__module__', None) or '').partition('.')[0]
    package = 'mmcv' if package in _BASIC_PACKAGES else package
    return name in LISTED[kind].get(package, ())


def listed_components(kind: str, name: str, scope: str | None) -> list[Any]:
    """Return the classes that ``name`` can mean in ``scope``, if all of them are listed.

    The name alone is not enough, because a user's own package may have registered another
    class under it. The function therefore also compares the registered classes.

    Args:
        kind: ``'model'``, ``'transform'`` or ``'dataset'``.
        name: Name without a scope.
        scope: One of ``SCOPES``, or None for mmengine's own scope.

    Returns:
        Classes; an empty list if the name is not listed, is not registered, or belongs to
        another class.

    Raises:
        ImportError: If the package of a listed name is not installed.
    """
    if not any(name in names for names in LISTED[kind].values()):
        return []
    found = list(_found(kind, name, scope))
    return found if all(_is_listed(kind, name, one) for one in found) else []
