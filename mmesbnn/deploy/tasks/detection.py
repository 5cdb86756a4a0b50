"""Exporting detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mmengine.config import Config
from torch import Tensor, nn

from ...binary.modes import inference
from ...errors import sentence
from ...project import class_names, testing_pipeline, type_name
from ..runtime.detection import Detection
from ..runtime.detection_decoding import DetectionDecoding
from ..runtime.manifest import ExportError, fitting
from .detector_check import check_boxes, predicted
from .detector_graphs import OUTPUTS, detector_graph, split
from .export_task import ExportTask, register_export
from .images import images_of, shape_of
from .preprocessing import check_preprocessor, preprocessing_of

if TYPE_CHECKING:
    from typing_extensions import Self

#: Options of mmcv's non-maximum suppression that the runner lacks, with the values at which
#: they change nothing.
_WITHOUT_EFFECT = dict(class_agnostic=False, offset=0, score_threshold=0, max_num=-1)
#: Module of mmdet's detectors, which may be missing.
_DETECTORS = 'mmdet.models.detectors'
#: Options that the runner has, or that only decide how fast it is.
_KNOWN = ('type', 'iou_threshold', 'split_thr')


def box_border(detector: nn.Module) -> int | None:
    """Return the distance of box ends from the image's end; None without clipping.

    The coder of the built head is asked, because classes have defaults of their own.

    Args:
        detector: A detector of mmdet with one head that gives boxes.
    """
    head: Any = getattr(detector, 'roi_head', None) or detector
    coder = head.bbox_head.bbox_coder
    if not getattr(coder, 'clip_border', True):
        return None
    # legacy coders count sides as x_2 - x_1 + 1
    return int(any(kind.__name__.startswith('Legacy') for kind in type(coder).__mro__))


def _check_places(cfg: Config) -> None:
    """Raise an error on steps that move an image, because boxes would not be moved back."""
    if any(type_name(transform['type']) == 'CenterCrop' for transform in testing_pipeline(cfg)):
        raise ExportError(
            'CenterCrop in the test pipeline of a detector is not supported: boxes would be shifted'
        )


def _check_most(test: Mapping[str, Any]) -> None:
    """Refuse numbers by which mmdet's dense heads leave out the last boxes."""
    name, dense = 'test_cfg', test
    if test.get('rcnn'):  # whose own number can be -1, for all
        name, dense = 'test_cfg.rpn', test.get('rpn') or {}
    most = dense.get('max_per_img', 1)
    if most < 1:
        raise ExportError(
            f'{name}.max_per_img={most} must be 1 or more: mmdet takes it as the end of a '
            'slice, and so leaves out boxes'
        )


def _check_suppression(test: Mapping[str, Any], where: str = '') -> None:
    """Refuse non-maximum suppression that neither the runner nor the graph does."""
    nms = test.get('nms') or {}
    if nms.get('type', 'nms') != 'nms':
        raise ExportError(f'{where}nms type {nms["type"]!r} is not supported, only plain nms')
    for name, value in nms.items():
        same = name in _WITHOUT_EFFECT and value == _WITHOUT_EFFECT[name]
        if name not in _KNOWN and not same:
            raise ExportError(f'{where}nms: {name}={value!r} is not supported, only iou_threshold')


def detection_decoding(cfg: Config) -> DetectionDecoding:
    """Return how the ``test_cfg`` of a config chooses boxes.

    The built detector gives ``levels`` and ``border``, see :func:`box_border`.

    Raises:
        ExportError: If the runner cannot choose so.
    """
    _check_places(cfg)
    test = cfg.model.get('test_cfg') or {}
    _check_most(test)
    # on proposals, mmdet does not check a size
    least = -1 if test.get('rcnn') else test.get('min_bbox_size', -1)
    if test.get('rcnn'):
        _check_suppression(test.get('rpn') or {}, 'test_cfg.rpn: ')
    test = test.get('rcnn') or test
    _check_suppression(test)
    nms = test.get('nms') or {}
    with fitting('test_cfg'):
        return DetectionDecoding(
            score_thr=test.get('score_thr', 0.0),
            iou_thr=nms.get('iou_threshold', 0.5),
            max_per_image=test.get('max_per_img', 100),
            min_size=least,
            nms_pre=test.get('nms_pre'),
            max_per_class=test.get('max_per_class'),
        )


def _shape_remark(shape: tuple[int, int, int]) -> str:
    _, height, width = shape
    return (
        f"boxes equal mmdet's only for images that fill {height} x {width} pixels: others are "
        'padded to it, where mmdet pads to its divisor'
    )


def _why_not_run(model: nn.Module, image: Tensor) -> ExportError:
    """Return the error of a detector whose graph does not run on ``image``, ``(1, 3, H, W)``."""
    head: Any = getattr(model, 'roi_head', model)
    kind = f'{type(model).__name__} with {type(head.bbox_head).__name__}'
    try:
        with inference(model):
            predicted(model, image)
    except Exception as error:  # of a network of a user
        height, width = image.shape[-2:]
        return ExportError(
            f'{kind} itself does not predict boxes of an image of {height} x {width} pixels '
            f'({sentence(error)})'
        )
    return ExportError(
        f'{kind} is not exported: its outputs are not class scores and box codes of every level'
    )


@register_export
@dataclass(frozen=True, kw_only=True)
class DetectionExport(ExportTask):
    """A detector of mmdet, whose boxes were compared with mmdet's own."""

    RUNNER = Detection

    @classmethod
    def accepts(cls, cfg: Config, model: nn.Module) -> bool:
        if cfg.get('default_scope') == 'mmdet':
            return True
        # a config of another scope, or of none, can name mmdet.RetinaNet
        return any(kind.__module__.startswith(_DETECTORS) for kind in type(model).__mro__)

    @classmethod
    def make(
        cls,
        cfg: Config,
        model: nn.Module,
        *,
        size: Sequence[int] | None,
        count: int,
        dataset_meta: Mapping[str, Any] | None,
    ) -> Self:
        graph = detector_graph(model)
        preprocessing, decoding = preprocessing_of(cfg), detection_decoding(cfg)
        names = class_names(cfg, dataset_meta)
        check_preprocessor(cfg, model, preprocessing)
        shape = shape_of(cfg, size, preprocessing.pad_divisor, preprocessing.steps)
        images, source = images_of(cfg, model, shape, count, preprocessing)
        try:
            with inference(graph):
                candidates = graph.candidates(images[:1])
            decoding = replace(decoding, border=box_border(model))
            outputs = OUTPUTS[: len(candidates.outputs())]
            if candidates.levels is not None:
                decoding = replace(decoding, levels=tuple(candidates.levels))
            agreement = check_boxes(model, graph, outputs, decoding, images)
        except ExportError:
            raise
        except Exception as error:  # heads of another kind lack attributes of any name
            raise _why_not_run(model, images[:1]) from error
        return cls(
            graph=graph,
            input_names=('image',),
            output_names=outputs,
            preprocessing=preprocessing,
            classes=None if names is None else tuple(names),
            decoding=decoding,
            images=images,
            source=source,
            remarks=(agreement, _shape_remark(shape)),
            parts=split(graph, shape[1:]),
        )
