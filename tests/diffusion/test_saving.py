"""A pipeline's folder is complete when it appears."""

import pytest

from mmesbnn.diffusion.saving import check_pipeline_folder, save_pipeline


class Pipeline:
    """Writes the files of a diffusers pipeline, or only half of them."""

    def __init__(self, text, broken=False):
        self.text, self.broken = text, broken

    def save_pretrained(self, folder):
        (folder / 'unet').mkdir()
        (folder / 'unet' / 'config.json').write_text(self.text)
        if self.broken:
            raise RuntimeError('a library says no')
        (folder / 'model_index.json').write_text(self.text)


def test_a_former_pipeline_is_replaced_whole(tmp_path):
    out = tmp_path / 'new' / 'pipeline'
    save_pipeline(Pipeline('old'), out)
    with pytest.raises(RuntimeError):
        save_pipeline(Pipeline('new', broken=True), out)
    assert (out / 'unet/config.json').read_text() == 'old'
    save_pipeline(Pipeline('new'), out)
    assert (out / 'unet/config.json').read_text() == 'new'
    assert [path.name for path in out.parent.iterdir()] == ['pipeline']


def test_other_files_are_not_removed(tmp_path):
    (tmp_path / 'thesis.tex').write_text('years of work')
    for call in (check_pipeline_folder, lambda out: save_pipeline(Pipeline('x'), out)):
        with pytest.raises(ValueError, match=r'\(thesis'):
            call(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']
    with pytest.raises(OSError):
        check_pipeline_folder(tmp_path / 'thesis.tex')
