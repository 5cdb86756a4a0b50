"""Distillation: teachers are used but are not part of the model."""

import copy
import sys
from types import SimpleNamespace
from urllib.error import URLError

import pytest

pytest.importorskip('mmpretrain')

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS
from mmpretrain import get_model
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from mmpretrain.structures import DataSample
from torch import nn

import mmesbnn  # noqa: F401  (registers)
from mmesbnn.checkpoints import read_checkpoint
from mmesbnn.engine.hooks import TeacherScheduleHook
from mmesbnn.models.classifiers import distill, student_config
from mmesbnn.models.losses import HardnessWeightedKDLoss
from tests.engine import toy

CLASSES = 10
SIZE = 8


class LinearTeacher(nn.Module):
    """A teacher that is built fast and records that it was built."""

    built = []

    def __init__(self, seed):
        super().__init__()
        self.built.append(seed)
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(CLASSES, 3 * SIZE * SIZE, generator=generator)
        self.weight = nn.Parameter(0.3 * weight)

    def forward(self, inputs):
        return inputs.flatten(1) @ self.weight.t()


def linear(seed):
    return dict(model=dict(type=LinearTeacher, seed=seed))


def network(backbone, width, classes=CLASSES):
    """Return the config of an ImageClassifier."""
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=width),
    )


BNEXT = dict(type='BNext', arch=dict(channels=[16, 32, 32]), stem_stride=1)
RESNET = dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8)
RESNET_TEACHER = dict(model=network(RESNET, 64))
BNEXT_TEACHER = dict(model=network(dict(BNEXT, tau=2), 32))
TEACHERS = dict(main=RESNET_TEACHER, assistants=[BNEXT_TEACHER])
# neither is in mmpretrain's model zoo or on the disk
MISSING = dict(
    main=dict(model='no-such-model_3rdparty'),
    assistants=[dict(model=network(RESNET, 64), checkpoint='/no/such.pth')] * 2,
)


def config(teachers=None, **kwargs):
    return dict(network(BNEXT, 32), type='DistillClassifier', teachers=teachers, **kwargs)


def build(teachers=None, load=True, **kwargs):
    model = MODELS.build(config(copy.deepcopy(teachers), **kwargs))
    # logits that differ from image to image and class to class
    nn.init.normal_(model.head.fc.weight)
    if load and teachers is not None:
        model.load_teachers()
    return model


def three_assistants():
    return dict(main=linear(9), assistants=[linear(seed) for seed in range(3)])


def images(count=4, dtype=torch.float32):
    return torch.randn(count, 3, SIZE, SIZE, dtype=dtype)


def samples(labels):
    return [DataSample().set_gt_label(label) for label in labels]


LABELS = [0, 3, 9, 3]


def losses(model, inputs, labels=LABELS):
    return model(inputs, samples(labels), mode='loss')


def expected_kd(model, inputs, seeds):
    """Return the loss for LinearTeachers with these seeds, built here."""
    with torch.no_grad():
        logits = model(inputs, mode='tensor')
        targets = [LinearTeacher(seed)(inputs) for seed in seeds]
    return HardnessWeightedKDLoss()(logits, targets).item()


@pytest.fixture
def built():
    LinearTeacher.built.clear()
    return LinearTeacher.built


def test_construction_builds_no_teachers(built):
    model = build(three_assistants(), load=False)
    assert built == []
    assert model.num_assistants == 3
    model.set_teacher(2)
    with pytest.raises(ValueError, match='assistant=3'):
        model.set_teacher(3)
    model.predict(images())
    assert built == []


class SilentTeacher(LinearTeacher):
    """A teacher whose ``train`` returns nothing, as that of some detectors of mmdet."""

    def train(self, mode=True):
        super().train(mode)


def test_a_teacher_whose_train_returns_nothing():
    model = build(dict(main=dict(model=dict(type=SilentTeacher, seed=0))))
    assert all(loss.isfinite() for loss in losses(model, images()).values())


def test_load_teachers_builds_them_once(built):
    model = build(three_assistants(), load=False)
    model.load_teachers()
    assert sorted(built) == [0, 1, 2, 9]
    model.load_teachers()
    losses(model, images())
    assert len(built) == 4


def test_loading_them_draws_no_random_numbers():
    """A resumed training loads them in a later epoch than an uninterrupted one."""
    model = build(TEACHERS, load=False)
    before = torch.get_rng_state()
    model.load_teachers()
    assert len(model.teachers) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_first_loss_loads_them(built):
    model = build(three_assistants(), load=False).eval()
    model.set_teacher(1)
    inputs = images()
    loss = losses(model, inputs)['loss_kd'].item()
    assert sorted(built) == [0, 1, 2, 9]
    assert loss == pytest.approx(expected_kd(model, inputs, [1, 9]), rel=1e-6)


def test_get_model_needs_no_teacher_weights():
    cfg = Config(dict(model=config(MISSING)))
    model = get_model(cfg)
    assert model.num_assistants == 2
    assert model(images(), mode='tensor').shape == (4, CLASSES)
    with pytest.raises((ValueError, OSError)):
        model.load_teachers()


def test_teachers_are_no_part_of_the_model():
    model = build(TEACHERS)
    plain = build(None)
    model.load_teachers()
    assert len(model.active_teachers()) == 2
    assert list(model.state_dict()) == list(plain.state_dict())
    for names in ('named_parameters', 'named_buffers', 'named_modules'):
        with_teachers, without = ([name for name, _ in getattr(m, names)()] for m in (model, plain))
        assert with_teachers == without
    inner = {id(m) for teacher in model.active_teachers() for m in teacher.modules()}
    assert not inner & {id(m) for m in model.modules()}


def test_teachers_are_frozen_and_stay_in_eval_mode():
    model = build(TEACHERS).train()
    teachers = model.active_teachers()
    before = [copy.deepcopy(teacher.state_dict()) for teacher in teachers]
    losses(model, images())['loss_kd'].backward()
    for teacher, state in zip(teachers, before, strict=True):
        assert not any(m.training for m in teacher.modules())
        assert not any(p.requires_grad for p in teacher.parameters())
        assert all(p.grad is None for p in teacher.parameters())
        after = teacher.state_dict()
        assert all(torch.equal(after[name], value) for name, value in state.items())


def test_every_parameter_of_the_student_learns():
    model = build(TEACHERS).train()
    losses(model, images())['loss_kd'].backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.backbone.stem.conv.weight.grad.abs().max() > 0
    assert model.head.fc.weight.grad.abs().max() > 0


def dtypes(model):
    return {p.dtype for teacher in model.active_teachers() for p in teacher.parameters()}


@pytest.mark.parametrize('teacher_autocast', [True, False])
def test_teachers_keep_full_precision_on_cpus(teacher_autocast):
    model = build(three_assistants(), teacher_autocast=teacher_autocast).eval()
    inputs = images()
    expected = model.teacher_logits(inputs)
    with torch.autocast('cpu', torch.bfloat16):
        assert model(inputs, mode='tensor').dtype == torch.bfloat16
        found = model.teacher_logits(inputs)
    for logits, full in zip(found, expected, strict=True):
        assert torch.equal(logits, full)


@pytest.mark.parametrize('early', [True, False])
def test_teachers_have_the_dtype_of_the_student(early):
    model = build(TEACHERS, load=early).double()
    model.load_teachers()
    assert dtypes(model) == {torch.float64}
    loss = losses(model, images(dtype=torch.float64))['loss_kd']
    assert loss.dtype == torch.float64 and loss.isfinite()
    model.float()
    assert dtypes(model) == {torch.float32}


def test_deepcopy_shares_teachers_and_does_not_move_them(built):
    model = build(three_assistants()).eval()
    twin = copy.deepcopy(model)
    assert len(built) == 4
    pairs = zip(twin.active_teachers(), model.active_teachers(), strict=True)
    assert all(ours is theirs for ours, theirs in pairs)
    inputs = images()
    assert torch.equal(losses(twin, inputs)['loss_kd'], losses(model, inputs)['loss_kd'])
    twin.double()
    assert dtypes(model) == {torch.float32}
    assert next(model.parameters()).dtype == torch.float32


@pytest.mark.parametrize('registry', [MODELS, MMPRETRAIN_MODELS])
def test_checkpoint_is_that_of_the_plain_classifier(registry):
    cfg = config(TEACHERS, label_weight=0.5, teacher_autocast=False)
    cfg['distill_loss'] = dict(type='HardnessWeightedKDLoss')
    model = registry.build(copy.deepcopy(cfg))
    model.load_teachers()
    inputs = images()
    losses(model.train(), inputs)  # moves the running statistics
    plain_cfg = student_config(cfg)
    assert 'teachers' in cfg and 'teachers' not in plain_cfg
    plain = registry.build(plain_cfg)
    assert type(plain) is ImageClassifier
    plain.load_state_dict(model.state_dict(), strict=True)
    ours, theirs = (m.eval().predict(inputs) for m in (model, plain))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.pred_score, b.pred_score)
        assert torch.equal(a.pred_label, b.pred_label)


def test_student_config_copies_other_configs():
    cfg = dict(network(BNEXT, 32), teachers='untouched')
    copied = student_config(cfg)
    assert copied == cfg and copied is not cfg


def test_set_teacher_chooses_the_assistant():
    model = build(three_assistants()).eval()
    inputs = images()
    found = []
    for assistant in (0, 2, 1):
        model.set_teacher(assistant)
        found.append(losses(model, inputs)['loss_kd'].item())
        expected = expected_kd(model, inputs, [assistant, 9])
        assert found[-1] == pytest.approx(expected, rel=1e-6)
    assert len(set(found)) == 3


def test_main_teacher_alone():
    model = build(dict(main=linear(9))).eval()
    assert model.num_assistants == 0
    inputs = images()
    loss = losses(model, inputs)['loss_kd'].item()
    assert loss == pytest.approx(expected_kd(model, inputs, [9]), rel=1e-6)
    with pytest.raises(ValueError, match='0 assistants'):
        model.set_teacher(0)


@pytest.mark.parametrize('assistant', [-1, 3])
def test_no_such_assistant(assistant):
    model = build(three_assistants(), load=False)
    with pytest.raises(ValueError, match=f'assistant={assistant}: .*3 assistants'):
        model.set_teacher(assistant)


@pytest.mark.parametrize('epochs', [3, 5, 10])
def test_schedule_lets_assistants_act_in_turn(built, epochs):
    model = build(three_assistants(), load=False).eval()
    hook = TeacherScheduleHook()
    runner = SimpleNamespace(model=model, train_loop=None, logger=None, max_epochs=epochs, epoch=0)
    hook.before_train(runner)
    assert sorted(built) == [0, 1, 2, 9]
    inputs = images()
    for runner.epoch in range(epochs):
        hook.before_train_epoch(runner)
        acts = min(runner.epoch * 3 // epochs, 2)
        loss = losses(model, inputs)['loss_kd'].item()
        assert loss == pytest.approx(expected_kd(model, inputs, [acts, 9]), rel=1e-6)


def test_runner_trains_with_the_schedule(tmp_path):
    model = build(three_assistants(), load=False)
    before = model.head.fc.weight.detach().clone()
    record = toy.Record(lambda r: [t.seed for t in r.model.active_teachers()])
    toy.runner(
        tmp_path,
        [TeacherScheduleHook(), record],
        model=model,
        epochs=4,
        default_scope='mmpretrain',
        default_hooks=dict(checkpoint=dict(type='CheckpointHook')),
    ).train()
    acts = [0, 0, 1, 2]
    assert record.seen['train'] == [[k, 9] for k in acts for _ in range(2)]
    assert not torch.equal(model.head.fc.weight, before)
    saved = read_checkpoint(tmp_path / 'epoch_4.pth')['state_dict']
    MODELS.build(student_config(config())).load_state_dict(saved, strict=True)


def test_labels_are_not_used_by_default():
    model = build(three_assistants()).eval()
    inputs = images()
    found = losses(model, inputs, [0, 1, 2, 3])
    assert list(found) == ['loss_kd']
    assert torch.equal(found['loss_kd'], losses(model, inputs, [9] * 4)['loss_kd'])


def test_label_weight_adds_the_heads_loss():
    plain, model = build(three_assistants()), build(three_assistants(), label_weight=2)
    plain.load_state_dict(model.state_dict())
    plain.eval(), model.eval()
    inputs = images()
    found = losses(model, inputs)
    assert sorted(found) == ['loss_cls', 'loss_kd']
    assert torch.equal(found['loss_kd'], losses(plain, inputs)['loss_kd'])
    logits = model(inputs, mode='tensor')
    expected = 2 * F.cross_entropy(logits, torch.tensor(LABELS))
    torch.testing.assert_close(found['loss_cls'], expected)


def test_distill_loss_can_be_configured():
    loss = dict(type='HardnessWeightedKDLoss', weighting='sample', loss_weight=0.5)
    model = build(three_assistants(), distill_loss=loss).eval()
    inputs = images()
    logits = model(inputs, mode='tensor')
    targets = [LinearTeacher(seed)(inputs) for seed in (0, 9)]
    expected = 0.5 * HardnessWeightedKDLoss('sample')(logits, targets)
    torch.testing.assert_close(losses(model, inputs)['loss_kd'], expected)


def test_checkpoint_of_a_teacher_is_loaded_strictly(tmp_path):
    teacher = MMPRETRAIN_MODELS.build(network(RESNET, 64)).eval()
    nn.init.normal_(teacher.head.fc.weight)
    good, bad = str(tmp_path / 'good.pth'), str(tmp_path / 'bad.pth')
    torch.save(dict(state_dict=teacher.state_dict()), good)
    torch.save(dict(state_dict=teacher.head.state_dict()), bad)
    model = build(dict(main=dict(RESNET_TEACHER, checkpoint=good)))
    inputs = images()
    (loaded,) = model.active_teachers()
    assert torch.equal(loaded(inputs), teacher(inputs))
    model = build(dict(main=dict(RESNET_TEACHER, checkpoint=bad)), load=False)
    with pytest.raises(RuntimeError):
        model.load_teachers()


@pytest.mark.parametrize(
    ('spec', 'what'),
    [
        (dict(model='resnet34_8xb32_in1k'), "the weights of 'resnet34_8xb32_in1k'"),
        (dict(RESNET_TEACHER, checkpoint='/no/such.pth'), "checkpoint='/no/such.pth'"),
    ],
)
def test_weights_that_cannot_be_read_are_one_sentence(spec, what, monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError('Name or service not known')

    monkeypatch.setattr('urllib.request.urlopen', no_network)
    monkeypatch.setattr('torch.hub.urlopen', no_network, raising=False)
    model = build(dict(main=spec), load=False)
    with pytest.raises(OSError) as caught:
        model.load_teachers()
    message = str(caught.value)
    assert message.startswith(f'teachers: main: {what} cannot be read (')
    assert 'teachers: main: checkpoint=' in message
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ('options', 'random'),
    [
        ({}, True),
        (dict(pretrained=None), True),
        (dict(backbone=dict(init_cfg=[dict(type='Kaiming')], pretrained=False)), True),
        (dict(pretrained='weights.pth'), False),
        (dict(backbone=dict(init_cfg=[dict(type='Pretrained')])), False),
    ],
)
def test_random_teachers_are_told(options, random, monkeypatch):
    told = []
    monkeypatch.setattr(distill, 'print_log', lambda text, **_: told.append(text))
    monkeypatch.setattr(distill.MODELS, 'build', lambda cfg: nn.Identity())
    distill.build_teacher('main', dict(model=dict(type='AnyClassifier', **options)))
    assert bool(told) is random


def test_a_module_can_teach():
    model = build(dict(main=dict(model=LinearTeacher(9)))).eval()
    inputs = images()
    loss = losses(model, inputs)['loss_kd'].item()
    assert loss == pytest.approx(expected_kd(model, inputs, [9]), rel=1e-6)


def test_without_teachers_it_predicts_but_does_not_train():
    model = build(None)
    assert model.num_assistants == 0
    scores = torch.stack([p.pred_score for p in model.eval().predict(images())])
    torch.testing.assert_close(scores.sum(1), torch.ones(4))
    with pytest.raises(ValueError, match=r'teachers=None.*can predict.*not be trained'):
        losses(model.train(), images())


@pytest.mark.parametrize('place', ['main', 'assistant 0'])
def test_teacher_with_other_classes(place):
    other = dict(model=network(RESNET, 64, classes=7))
    specs = [RESNET_TEACHER, other] if place == 'main' else [other, RESNET_TEACHER]
    model = build(dict(assistants=specs[:1], main=specs[1]), load=False)
    with pytest.raises(ValueError, match=f'{place} has 7 classes, .* 10'):
        model.load_teachers()


def test_teacher_that_does_not_tell_its_classes():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 7))
    model = build(dict(main=dict(model=module)))
    with pytest.raises(ValueError, match='logits of teacher 0'):
        losses(model, images())


@pytest.mark.parametrize(
    ('teachers', 'message'),
    [
        (dict(main=linear(0), other=1), 'teachers must be a dict with `main`'),
        (dict(assistants=[linear(0)]), 'teachers must be a dict with `main`'),
        ([linear(0)], r'teachers=\[.*must be a dict'),
        (dict(main=dict(type='ImageClassifier')), 'main must be a dict with `model`'),
        (dict(main=dict(**linear(0), weights='x.pth')), 'main must be a dict with'),
        (dict(main=linear(0), assistants=[dict()]), 'assistant 0 must be a dict with'),
    ],
)
def test_unknown_or_missing_keys_are_told_at_construction(teachers, message):
    with pytest.raises(ValueError, match=message):
        build(teachers, load=False)


def test_teacher_that_is_neither_config_nor_name_nor_module():
    with pytest.raises(ValueError, match=r'main.*model=3'):
        build(dict(main=dict(model=3)))


def test_negative_label_weight():
    with pytest.raises(ValueError, match='label_weight=-1 must be a finite number'):
        build(None, label_weight=-1)


@pytest.mark.parametrize('part', ['backbone', 'neck', 'head'])
def test_parts_that_cannot_be_built_are_named(part):
    with pytest.raises(ValueError, match=f"{part}={{'type': 'Nothing'}}: Nothing is not in"):
        MODELS.build({**config(), part: dict(type='Nothing')})


def test_no_head():
    with pytest.raises(ValueError, match='head=None'):
        MODELS.build(dict(config(), head=None))


def test_parts_that_do_not_return_logits_are_named():
    images, samples = torch.randn(2, 3, SIZE, SIZE), [DataSample().set_gt_label(1)] * 2
    heads = dict(type='ConformerHead', num_classes=CLASSES, in_channels=[32, 32])
    model = MODELS.build(dict(config(dict(main=linear(1))), head=heads))
    with pytest.raises(ValueError, match='head=ConformerHead returns tuple: distillation needs'):
        model(images, samples, mode='loss')
    headless = dict(model=dict(type='ImageClassifier', backbone=RESNET))
    model = MODELS.build(dict(config(), teachers=dict(main=headless)))
    with pytest.raises(ValueError, match='teachers: the ImageClassifier returns tuple: '):
        model(images, samples, mode='loss')


def test_without_mmpretrain_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmpretrain', None)
    sentence = (
        r'^DistillClassifier needs mmpretrain, which is not installed: '
        r"pip install 'mmesbnn\[cls\]'$"
    )
    with pytest.raises(ImportError, match=sentence):
        MODELS.build(config())
