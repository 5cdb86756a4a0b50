"""Pages that are generated from other files: networks, notebooks, sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ZOO = """# Model zoo

This page is generated from the metafiles in `configs/`.

OPs are `FP MACs + BOPs / 64`. They and the parameters are measured with
`python tools/count_ops.py CONFIG`, for some networks with `--shape`: the READMEs of the families
say which. **Accuracies are the papers'.**
They were not reproduced, because ImageNet, VOC and DF2K could not be downloaded for this work.
A dash means that no paper reports a figure. There are no weights to download: train a recipe, or
[convert a published file](tutorials/convert.md).
"""


def zoo_page(root: Path) -> str:
    """Return the Markdown of the model zoo, from all metafiles of the model index."""
    index = yaml.safe_load((root / 'model-index.yml').read_text(encoding='utf-8'))
    parts = [ZOO]
    for name in index['Import']:
        found = yaml.safe_load((root / name).read_text(encoding='utf-8'))
        for family in found['Collections']:
            models = [each for each in found['Models'] if each['In Collection'] == family['Name']]
            parts += [_family(family), _table(models)]
    return '\n'.join(parts)


def _family(family: dict[str, Any]) -> str:
    paper, techniques = family['Paper'], ', '.join(family['Metadata']['Training Techniques'])
    papers = paper if isinstance(paper, list) else [paper]
    links = '; '.join(f'[{each["Title"]}]({each["URL"]})' for each in papers)
    data = family['Metadata'].get('Training Data', '')
    data = ', '.join(data) if isinstance(data, list) else data
    return (
        f'\n## {family["Name"]}\n\n{links}. Trained on {data} with {techniques}. '
        f'[Recipes and differences from the published code](../{family["README"]}).\n'
    )


def _table(models: list[dict[str, Any]]) -> str:
    lines = ['| network | data | OPs | parameters | figure of the paper |', '|---|---|---|---|---|']
    for model in models:
        numbers = model['Metadata']
        results = model.get('Results', [])
        data = ', '.join(dict.fromkeys(str(result['Dataset']) for result in results))
        metrics = [
            f'{key}: {value}' for result in results for key, value in result['Metrics'].items()
        ]
        lines.append(
            f'| [{model["Name"]}](../{model["Config"]}) | {data} | {_amount(numbers["FLOPs"])} '
            f'| {_amount(numbers["Parameters"])} | {", ".join(metrics) or "–"} |'
        )
    return '\n'.join(lines) + '\n'


def _amount(number: float) -> str:
    """Return a count as ``87.1 M`` or ``3.26 G``."""
    unit, size = ('G', 1e9) if number >= 1e9 else ('M', 1e6)
    return f'{number / size:#.3g} {unit}'.replace('. ', ' ')


def notebook_page(text: str, name: str) -> str:
    """Return a notebook as Markdown: its texts, its code, and the outputs that it stores.

    Args:
        text: JSON of the notebook.
        name: File name of the notebook, for a link to download it.
    """
    parts = []
    for cell in json.loads(text)['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'markdown':
            parts.append(source)
        elif source.strip():
            parts.append(f'```python\n{source}\n```')
            parts += [_output(output) for output in cell['outputs']]
    title, *rest = parts
    link = f'[Download this notebook]({name}){{ download="{name}" }}'
    return '\n\n'.join([title, link, *rest]) + '\n'


def _output(output: dict[str, Any]) -> str:
    if output['output_type'] == 'stream':
        return '```text\n' + ''.join(output['text']).rstrip() + '\n```'
    data = output.get('data', {})
    if 'image/png' in data:
        image = ''.join(data['image/png']).replace('\n', '')
        return f'<img alt="output of the cell" src="data:image/png;base64,{image}">'
    return '```text\n' + ''.join(data.get('text/plain', '')) + '\n```'


def source_page(text: str, path: str) -> str:
    """Return a source file or a folder as a page.

    Args:
        text: Content of the file, or the names of the files in a folder.
        path: Its path in the repository.
    """
    if path.endswith('.md'):
        return text
    language = {'.py': 'python', '.yml': 'yaml', '.yaml': 'yaml'}.get(Path(path).suffix, 'text')
    return f'# {Path(path).name}\n\n`{path}`\n\n````{language}\n{text.rstrip()}\n````\n'
